"""Token selection as a decision process; importing registers `trbert/TokenSelection-v0` with Gymnasium.

Nothing heavy loads here: Gymnasium imports the entry points when an environment is made.
"""

import gymnasium

gymnasium.register(
    id="trbert/TokenSelection-v0",
    entry_point="envs.token_selection:TokenSelectionEnv",
    vector_entry_point="envs.token_selection:TokenSelectionVectorEnv",
)
