"""The prompts that tell RT-2 what to do: one for each kind of task.

    robot     What action should the robot take to {instruction}?      actions
    caption   Describe the picture.                                    a caption
    vqa       Answer: {question}                                       an answer
    match     Does this describe the picture? {caption}                'yes' or 'no'
    point     Point at {thing}.                                        '3 5': column and row of a grid over the picture

The wording of `robot` is RT-2's (section 3.2); the others are PaLI's in kind, in plain words.
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
"""A batch's `kinds` are places in this list."""


def prompt(kind: str, text: str = '') -> str:
  """The prompt of a task.

  Args:
    kind: one of TASKS.
    text: the instruction, question, caption or thing; nothing for 'caption'.

  Raises:
    ValueError: there is no such kind, or the text is missing or too much.
  """
  if kind not in TEMPLATES:
    close = difflib.get_close_matches(kind, TASKS, 1)
    raise ValueError(f'unknown task {kind!r}, expected one of {list(TASKS)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))
  template, text = TEMPLATES[kind], text.strip()
  if bool(text) != ('{}' in template):
    raise ValueError(f'the task {kind!r} ' + (f'takes no text, got {text!r}.' if text else 'needs a text, got none.'))
  return template.format(text)
