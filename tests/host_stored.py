"""Run by the host's Python, not by pytest: what the host's own loader makes of the files that test_stored wrote.

    python host_stored.py PACK FOLDER      in a ComfyUI checkout's folder

Reads FOLDER/config.json and the files it names, writes FOLDER/outputs.safetensors and FOLDER/about.json.
"""

import json

from in_host import FOLDER, start

start()

import comfy.ops  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

CONFIG = json.loads((FOLDER / "config.json").read_text())


def weight(path):
    """The weight of the layer as the host computes with it, in fp32; None for a kind that this host does not know."""
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    if not hasattr(comfy.utils, "convert_old_quants"):  # before 0.4 the scaled layout alone was known
        return old(state)
    state, _ = comfy.utils.convert_old_quants(state, CONFIG["prefix"], metadata=metadata)
    operations = comfy.ops.mixed_precision_ops({}, torch.float32)
    module = operations.Linear(16, 24)
    prefix = CONFIG["layer"] + "."
    about = state.get(prefix + "comfy_quant")
    known = getattr(comfy.ops, "QUANT_ALGOS", {})
    if about is not None and json.loads(about.numpy().tobytes())["format"] not in known:
        return None
    module.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, strict=False
    )
    found = module.weight
    return (
        found.dequantize()
        if hasattr(found, "dequantize") and type(found) is not torch.nn.Parameter
        else found
    )


def old(state):
    """As comfy.ops.scaled_fp8_ops computed: the stored value times the scale."""
    key = CONFIG["layer"]
    if key + ".weight_scale" in state:
        return None
    scale = state.get(key + ".scale_weight", torch.ones(()))
    return state[key + ".weight"].to(torch.float32) * scale


found = {name: weight(FOLDER / f"{name}.safetensors") for name in CONFIG["files"]}
read = {
    name: tensor.detach().to(torch.float32).contiguous()
    for name, tensor in found.items()
    if tensor is not None
}
save_file(read, FOLDER / "outputs.safetensors")
(FOLDER / "about.json").write_text(json.dumps({"read": sorted(read)}))
