"""Run by the host's Python, not by pytest: what Fuse and the host's own LoraLoader make of the same LoRA files.

    python host_layouts.py PACK FOLDER      in a ComfyUI checkout's folder

FOLDER/NAME.safetensors are LoRAs with structure weights for the demo model. Writes FOLDER/about.json: NAME -> "ours"
and "host", which of the model's weights each changes, each with a hash of the patched weight's bytes at strength 0.7.
"""

import hashlib
import json

from in_host import FOLDER, part, start

start()

import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.sd  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

ALPHA = 0.7


def weights(patcher):
    """Key -> hash of the weight, as the host computes it, for the patched keys."""
    found = {}
    for key, patches in patcher.patches.items():
        original = patcher.model.get_parameter(key)
        changed = comfy.lora.calculate_weight(patches, original.detach().clone().float(), key)
        if not bool((changed == original).all()):
            found[key] = hashlib.sha256(changed.contiguous().numpy().tobytes()).hexdigest()
    return found


files, fusion = part("rechar_core.lora.files"), part("rechar_core.lora.fusion")
patch_model, as_blora = part("nodes.host.patch").patch_model, part("nodes.host.loras").as_blora
base = part("nodes.host.demo_model").shared_demo()[0]
about = {}
for path in sorted(FOLDER.glob("*.safetensors")):
    state = load_file(path)
    ours = patch_model(base, fusion.fuse(files.read(path), None, ALPHA))
    taken = patch_model(base, fusion.fuse(as_blora(state), None, ALPHA))
    host, _ = comfy.sd.load_lora_for_models(base, None, state, ALPHA, 0)
    about[path.stem] = {"ours": weights(ours), "host": weights(host), "lora_model": weights(taken)}
(FOLDER / "about.json").write_text(json.dumps(about))
save_file({}, FOLDER / "outputs.safetensors")
