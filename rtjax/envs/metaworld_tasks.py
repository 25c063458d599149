"""Tasks of Meta-World, their instructions, suites and groups.

Meta-World has no instructions. These are those of LeRobot's public demonstrations (huggingface.co/datasets/lerobot/
metaworld_mt50, in lerobot's src/lerobot/envs/metaworld_config.json), and so are the groups by difficulty. `push-v3` and
`push-back-v3` share an instruction.
"""

INSTRUCTIONS = {
    'assembly-v3': 'Pick up a nut and place it onto a peg',
    'basketball-v3': 'Dunk the basketball into the basket',
    'bin-picking-v3': 'Grasp the puck from one bin and place it into another bin',
    'box-close-v3': 'Grasp the cover and close the box with it',
    'button-press-topdown-v3': 'Press a button from the top',
    'button-press-topdown-wall-v3': 'Bypass a wall and press a button from the top',
    'button-press-v3': 'Press a button',
    'button-press-wall-v3': 'Bypass a wall and press a button',
    'coffee-button-v3': 'Push a button on the coffee machine',
    'coffee-pull-v3': 'Pull a mug from a coffee machine',
    'coffee-push-v3': 'Push a mug under a coffee machine',
    'dial-turn-v3': 'Rotate a dial 180 degrees',
    'disassemble-v3': 'Pick a nut out of a peg',
    'door-close-v3': 'Close a door with a revolving joint',
    'door-lock-v3': 'Lock the door by rotating the lock clockwise',
    'door-open-v3': 'Open a door with a revolving joint',
    'door-unlock-v3': 'Unlock the door by rotating the lock counter-clockwise',
    'drawer-close-v3': 'Push and close a drawer',
    'drawer-open-v3': 'Open a drawer',
    'faucet-close-v3': 'Rotate the faucet clockwise',
    'faucet-open-v3': 'Rotate the faucet counter-clockwise',
    'hammer-v3': 'Hammer a screw on the wall',
    'hand-insert-v3': 'Insert the gripper into a hole',
    'handle-press-side-v3': 'Press a handle down sideways',
    'handle-press-v3': 'Press a handle down',
    'handle-pull-side-v3': 'Pull a handle up sideways',
    'handle-pull-v3': 'Pull a handle up',
    'lever-pull-v3': 'Pull a lever down 90 degrees',
    'peg-insert-side-v3': 'Insert a peg sideways',
    'peg-unplug-side-v3': 'Unplug a peg sideways',
    'pick-out-of-hole-v3': 'Pick up a puck from a hole',
    'pick-place-v3': 'Pick and place a puck to a goal',
    'pick-place-wall-v3': 'Pick a puck, bypass a wall and place the puck',
    'plate-slide-back-side-v3': 'Get a plate from the cabinet sideways',
    'plate-slide-back-v3': 'Get a plate from the cabinet',
    'plate-slide-side-v3': 'Slide a plate into a cabinet sideways',
    'plate-slide-v3': 'Slide a plate into a cabinet',
    'push-back-v3': 'Push the puck to a goal',
    'push-v3': 'Push the puck to a goal',
    'push-wall-v3': 'Bypass a wall and push a puck to a goal',
    'reach-v3': 'Reach a goal position',
    'reach-wall-v3': 'Bypass a wall and reach a goal',
    'shelf-place-v3': 'Pick and place a puck onto a shelf',
    'soccer-v3': 'Kick a soccer into the goal',
    'stick-pull-v3': 'Grasp a stick and pull a box with the stick',
    'stick-push-v3': 'Grasp a stick and push a box using the stick',
    'sweep-into-v3': 'Sweep a puck into a hole',
    'sweep-v3': 'Sweep a puck off the table',
    'window-close-v3': 'Push and close a window',
    'window-open-v3': 'Push and open a window',
}
TASKS = tuple(INSTRUCTIONS)

SUITES = {
    'mt10': ('reach-v3', 'push-v3', 'pick-place-v3', 'door-open-v3', 'drawer-open-v3', 'drawer-close-v3',
             'button-press-topdown-v3', 'peg-insert-side-v3', 'window-open-v3', 'window-close-v3'),
    'mt50': TASKS,
}
"""Tasks of the benchmarks MT10 and MT50."""

_HARDER = {
    'medium': ('basketball-v3', 'bin-picking-v3', 'box-close-v3', 'coffee-pull-v3', 'coffee-push-v3', 'hammer-v3',
               'peg-insert-side-v3', 'push-wall-v3', 'soccer-v3', 'sweep-v3', 'sweep-into-v3'),
    'hard': ('assembly-v3', 'hand-insert-v3', 'pick-out-of-hole-v3', 'pick-place-v3', 'push-v3', 'push-back-v3'),
    'very hard': ('shelf-place-v3', 'disassemble-v3', 'stick-pull-v3', 'stick-push-v3', 'pick-place-wall-v3'),
}
DIFFICULTY = {'easy': tuple(task for task in TASKS if task not in sum(_HARDER.values(), ())), **_HARDER}
"""Groups of the 50 tasks; published averages are means over the four groups."""
