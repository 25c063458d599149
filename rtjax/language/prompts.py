"""Prompts of RT-2, one for each task.

    task      prompt                                                   answer
    robot     What action should the robot take to {instruction}?      actions
    caption   Describe the picture.                                    a caption
    vqa       Answer: {question}                                       an answer
    match     Does this describe the picture? {caption}                'yes' or 'no'
    point     Point at {object}.                                       '3 5': column and row of a grid over the image

The wording of `robot` is RT-2's (section 3.2); the other tasks are PaLI's.
"""
import difflib

TEMPLATES = {
    'robot': 'What action should the robot take to {}?',
    'caption': 'Describe the picture.',
    'vqa': 'Answer: {}',
    'match': 'Does this describe the picture? {}',
    'point': 'Point at {}.',
}
TASKS = tuple(TEMPLATES)
"""`TextBatch.tasks` are indices into this list."""


def prompt(task: str, text: str = '') -> str:
  """Return the prompt of a task.

  Args:
    task: one of TASKS.
    text: the instruction, question, caption or object; empty for 'caption'.

  Raises:
    ValueError: there is no such task, or the text is missing or superfluous.
  """
  if task not in TEMPLATES:
    close = difflib.get_close_matches(task, TASKS, 1)
    raise ValueError(f'unknown task {task!r}, expected one of {list(TASKS)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))
  template, text = TEMPLATES[task], text.strip()
  if bool(text) != ('{}' in template):
    raise ValueError(f'the task {task!r} ' + (f'takes no text, got {text!r}.' if text else 'needs a text, got none.'))
  return template.format(text)
