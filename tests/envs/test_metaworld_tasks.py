"""Instructions, suites and groups of Meta-World's tasks."""
from rtjax.envs.metaworld_tasks import DIFFICULTY, INSTRUCTIONS, SUITES, TASKS
from rtjax.language.instructions import hashed_ngrams


def test_suites_and_groups_divide_the_tasks():
  assert len(TASKS) == len(SUITES['mt50']) == 50 and len(set(SUITES['mt10'])) == 10
  assert set(SUITES['mt10']) <= set(TASKS)
  assert [len(tasks) for tasks in DIFFICULTY.values()] == [28, 11, 6, 5]
  assert sorted(task for tasks in DIFFICULTY.values() for task in tasks) == sorted(TASKS)


def test_instructions_distinguish_all_tasks_but_two():
  """LeRobot's set has 49 instructions: pushing to a goal and pushing back are called alike."""
  assert len({hashed_ngrams(text).tobytes() for text in INSTRUCTIONS.values()}) == 49
  assert INSTRUCTIONS['push-v3'] == INSTRUCTIONS['push-back-v3']
