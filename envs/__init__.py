"""Token selection as a decision process. Importing this package registers `trbert/TokenSelection-v0` with Gymnasium.

The import is cheap: Gymnasium imports the modules below only when an environment is made.
"""

import gymnasium

gymnasium.register(
    id="trbert/TokenSelection-v0",
    entry_point="envs.token_selection:TokenSelectionEnv",
    vector_entry_point="envs.token_selection:TokenSelectionVectorEnv",
)
