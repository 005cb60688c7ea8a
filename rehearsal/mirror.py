"""A mirror of tiny random checkpoints in the layouts of the released repositories: names of files, tokenizers, shards.

Squares are an eighth of the released ones: 8 cells of 8 px for Stable Diffusion 1 and 2, 16 for the larger networks.
Beside what is loaded lie files that nobody asks for, as in the originals.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.extractors.weights.manifest import Model
from methods.backbones.identity import quiet
from methods.backbones.llamagen.convert import blank
from methods.shared.upscaler import rrdb
from rehearsal.sizes import CLIPS, DINO, FACTOR, LLAMAGEN, T5
from tests.support import tiny_flashvsr, tiny_pipelines, tiny_scorers

COMMIT = "d" * 40  # where the manifest pins none
WIDE = 8 * FACTOR  # the widest features of a tiny transformer


# -- tokenizers, as their files are released


def clip_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """CLIP's own vocabulary of 49,408 pieces, which open_clip brings, as ``vocab.json`` and ``merges.txt``."""
    import open_clip

    source = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(source.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    encoder = open_clip.tokenizer.SimpleTokenizer().encoder
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {marks.get(piece, piece): i for piece, i in encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    start, end = marks.values()
    told = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(told))
    more = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, **more}))


def t5_tokenizer(folder: Path, fast: bool = True) -> int:
    """A sentencepiece model of this project's prompts, with ``tokenizer.json`` where ``fast``; returns its pieces."""
    import sentencepiece
    from transformers import AutoTokenizer

    prompts = sorted((Path(__file__).parents[1] / "prompts").rglob("*.jsonl"))
    lines = [json.loads(line)["text"] for line in prompts[0].read_text(encoding="utf-8").splitlines()[:500]]
    folder.mkdir(parents=True, exist_ok=True)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=pieces, vocab_size=200, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    extra = [f"<extra_id_{i}>" for i in range(100)]
    told = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}
    (folder / "special_tokens_map.json").write_text(json.dumps(told))
    more = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, **more}))
    if fast:
        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    return sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue()).get_piece_size() + len(extra)


# -- pipelines


def vae(channels: int = 4, **config: Any) -> Any:
    """An AutoencoderKL of the released factor, 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=channels, block_out_channels=(8,) * 4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4,
        **config,
    )  # fmt: skip


def clip_text(cls: str, hidden: int, act: str = "quick_gelu") -> Any:
    """A text encoder that reads CLIP's own vocabulary."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1, projection_dim=hidden,
        hidden_act=act,
    )  # fmt: skip
    return getattr(transformers, cls)(config)


def t5(pieces: int, hidden: int, cls: str = "T5EncoderModel") -> Any:
    """An encoder of T5's kind, or all of one."""
    import transformers

    kind = getattr(transformers, cls)
    return kind(kind.config_class(vocab_size=pieces, d_model=hidden, **T5))


def save(folder: Path, index: str, **parts: Any) -> None:
    """Parts of a pipeline and its ``model_index.json``; a tokenizer is there already and given by its class's name."""
    folder.mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = {"_class_name": index, "_diffusers_version": "0.30.0"}
    for name, part in parts.items():
        if isinstance(part, str):
            named[name] = ["transformers", part]
            continue
        with quiet():
            part.save_pretrained(folder / name)
        named[name] = [type(part).__module__.partition(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(named))


def halve(folder: Path) -> None:
    """All numbers in bfloat16, as large networks are released."""
    for file in folder.rglob("*.safetensors"):
        state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(state, file, metadata={"format": "pt"})


def stable_diffusion(folder: Path, hidden: int, act: str, linear: bool) -> None:
    """Stable Diffusion 1 or 2, in all the ways its repository holds it."""
    from diffusers import PNDMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=FACTOR, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=hidden, attention_head_dim=2, norm_num_groups=4, use_linear_projection=linear,
    )  # fmt: skip
    schedule = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    clip_tokenizer(folder / "tokenizer", "!" if linear else "<|endoftext|>")
    save(
        folder, "StableDiffusionPipeline", unet=unet, vae=vae(scaling_factor=0.18215), scheduler=schedule,
        text_encoder=clip_text("CLIPTextModel", hidden, act), tokenizer="CLIPTokenizer",
    )  # fmt: skip
    variants(folder)


def variants(folder: Path) -> None:
    """Beside each part its half in 16 bits and a pickle, and a single-file checkpoint: what nobody should take."""
    for file in list(folder.rglob("*.safetensors")):
        state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(state, file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"})
        file.with_suffix(".bin").write_bytes(b"not loaded")
    (folder / "all-in-one.ckpt").write_bytes(b"not loaded")


def unet_xl(**more: Any) -> dict[str, Any]:
    """What SDXL's U-Net and its ControlNet have in common."""
    return dict(
        in_channels=4, layers_per_block=1, block_out_channels=(8, 16), attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8, cross_attention_dim=16 + 24, norm_num_groups=4, **more,
    )  # fmt: skip


def sdxl(folder: Path) -> None:
    """SDXL: two text encoders, Euler."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=2 * FACTOR, out_channels=4, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **unet_xl()
    )
    schedule = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    clip_tokenizer(folder / "tokenizer")
    clip_tokenizer(folder / "tokenizer_2", "!")
    save(
        folder, "StableDiffusionXLPipeline", unet=unet, vae=vae(scaling_factor=0.13025), scheduler=schedule,
        text_encoder=clip_text("CLIPTextModel", 16), tokenizer="CLIPTokenizer", tokenizer_2="CLIPTokenizer",
        text_encoder_2=clip_text("CLIPTextModelWithProjection", 24, "gelu"),
    )  # fmt: skip
    variants(folder)


def controlnet(folder: Path) -> None:
    """SDXL's Canny ControlNet."""
    from diffusers import ControlNetModel

    with quiet():
        ControlNetModel(conditioning_embedding_out_channels=(4, 4, 4, 4), **unet_xl()).save_pretrained(folder)


def ip_adapter(folder: Path) -> None:
    """SDXL's plain IP-Adapter, with the CLIP that looks for it: four tokens, a pair for each attention to the text."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    width, seen = 16 + 24, 8
    unet = UNet2DConditionModel(
        sample_size=2 * FACTOR, out_channels=4, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **unet_xl()
    )
    state = {
        "image_proj.proj.weight": torch.randn(4 * width, seen), "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width), "image_proj.norm.bias": torch.zeros(width),
    }  # fmt: skip
    outs = [m.to_k.out_features for name, m in unet.named_modules() if name.endswith("attn2")]
    for i, out in enumerate(outs):
        state |= {f"ip_adapter.{2 * i + 1}.to_{k}_ip.weight": 0.1 * torch.randn(out, width) for k in "kv"}
    home = folder / "sdxl_models"
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=seen,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(home / "image_encoder")
    save_file(state, home / "ip-adapter_sdxl.safetensors")


def flux(folder: Path) -> None:
    """FLUX.1, dev or Krea: parts in shards of bfloat16, and all of it in one file beside them."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    clip_tokenizer(folder / "tokenizer")
    pieces = t5_tokenizer(folder / "tokenizer_2")
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    schedule = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    save(
        folder, "FluxPipeline", transformer=transformer, scheduler=schedule,
        text_encoder=clip_text("CLIPTextModel", 16),
        vae=vae(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder_2=t5(pieces, 32), tokenizer="CLIPTokenizer", tokenizer_2="T5TokenizerFast",
    )  # fmt: skip
    halve(folder)
    (folder / "flux1.safetensors").write_bytes(b"not loaded")


def sd3(folder: Path, large: bool) -> None:
    """SD 3.5: three text encoders; the medium one has a second attention."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    clip_tokenizer(folder / "tokenizer")
    clip_tokenizer(folder / "tokenizer_2", "!")
    pieces = t5_tokenizer(folder / "tokenizer_3")
    transformer = SD3Transformer2DModel(
        sample_size=2 * FACTOR, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40,
        pos_embed_max_size=192 if large else 384, dual_attention_layers=() if large else (0,), qk_norm="rms_norm",
    )  # fmt: skip
    save(
        folder, "StableDiffusion3Pipeline", transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text("CLIPTextModelWithProjection", 16), text_encoder_3=t5(pieces, 48),
        text_encoder_2=clip_text("CLIPTextModelWithProjection", 24, "gelu"), tokenizer="CLIPTokenizer",
        tokenizer_2="CLIPTokenizer", tokenizer_3="T5TokenizerFast",
    )  # fmt: skip
    halve(folder)


def pixart(folder: Path) -> None:
    """PixArt-Sigma: T5 with its sentencepiece file alone."""
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    pieces = t5_tokenizer(folder / "tokenizer", fast=False)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, sample_size=2 * FACTOR, caption_channels=32, use_additional_conditions=False,
    )  # fmt: skip
    schedule = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    save(
        folder, "PixArtSigmaPipeline", transformer=transformer, vae=vae(scaling_factor=0.13025), scheduler=schedule,
        text_encoder=t5(pieces, 32), tokenizer="T5Tokenizer",
    )  # fmt: skip


def wan(folder: Path) -> None:
    """Wan2.1: umT5, UniPC, the causal video decoder."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

    pieces = t5_tokenizer(folder / "tokenizer")
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, freq_dim=32,
        ffn_dim=32, num_layers=1, rope_max_seq_len=1024,
    )  # fmt: skip
    decoder = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    schedule = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    save(
        folder, "WanPipeline", transformer=transformer, vae=decoder, scheduler=schedule, tokenizer="T5TokenizerFast",
        text_encoder=t5(pieces, 32, "UMT5EncoderModel"),
    )  # fmt: skip


def lcm_lora(folder: Path) -> None:
    """LCM-LoRA as kohya's trainer spells it: a pair for the text attention of the U-Net's first block."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    pair = {"lora_down.weight": torch.randn(2, 8), "lora_up.weight": torch.randn(8, 2), "alpha": torch.tensor(2.0)}
    save_file({f"{name}.{k}": v for k, v in pair.items()}, folder / "pytorch_lora_weights.safetensors")


# -- tokens


def llamagen(folder: Path) -> None:
    """The two pickles of tensors that LlamaGen's folder is made of."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, file in (("gpt", "t2i_XL_stage2_512.pt"), ("vq", "vq_ds16_t2i.pt")):
        state = {k: 0.1 * torch.randn(v.shape) for k, v in blank(part, LLAMAGEN[part]).state_dict().items()}
        state |= {k: 1 + v for k, v in state.items() if "norm" in k and k.endswith("weight")}
        torch.save({"model": state}, folder / file)


def flan(folder: Path) -> None:
    """A whole T5, decoder and all, in shards."""
    pieces = t5_tokenizer(folder)
    with quiet():
        t5(pieces, LLAMAGEN["t5"]["d_model"], "T5ForConditionalGeneration").save_pretrained(folder)


# -- scorers and upscalers: of the architectures that are known by name, :mod:`rehearsal.sizes` has small ones


def open_clip_(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import open_clip

        folder.mkdir(parents=True, exist_ok=True)
        model = open_clip.create_model(name, pretrained=None)
        for p in model.parameters():  # fresh, the residual branches of a ResNet are closed
            torch.nn.init.normal_(p, 0.0, 0.2) if p.ndim > 1 else torch.nn.init.normal_(p, 0.5, 0.2)
        save_file(
            {k: v.contiguous().clone() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
        )

    return write


def dino(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import timm

        folder.mkdir(parents=True, exist_ok=True)
        save_file(timm.create_model(name, num_classes=0).state_dict(), folder / "model.safetensors")

    return write


def hps(file: str) -> Callable[[Path], None]:
    return lambda folder: tiny_scorers.hps(folder, file=file, config=CLIPS["ViT-H-14"])


def owl(folder: Path) -> None:
    """OWLv2 with the files of its tokenizer."""
    tiny_scorers.owl(folder)
    clip_tokenizer(folder, "!")


def bert(folder: Path) -> None:
    """Only the vocabulary is read."""
    shutil.copy(tiny_scorers.image_reward(folder) / "vocab.txt", folder.parent / "vocab.txt")
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.move(folder.parent / "vocab.txt", folder / "vocab.txt")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")


def inception(file: Path) -> None:
    """The network is built by reading its weights, so it is built of whatever it would have."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    load, fill = torch.load, torch.nn.Module.load_state_dict
    torch.load = lambda *a, **k: {}
    torch.nn.Module.load_state_dict = lambda *a, **k: None
    try:
        made = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=io.BytesIO(b"x"))
    finally:
        torch.load, torch.nn.Module.load_state_dict = load, fill
    torch.save(made.state_dict(), file)


def vgg(name: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        """The trunk; the classifier, most of the released file, is not read."""
        import torchvision

        with torch.device("meta"):
            shapes = getattr(torchvision.models, name)(weights=None).features.state_dict()
        state = {f"features.{k}": torch.randn(v.shape) * (2 / max(v[0].numel(), 1)) ** 0.5 for k, v in shapes.items()}
        torch.save(state, file)

    return write


def head(layers: bool) -> Callable[[Path], None]:
    width = CLIPS["ViT-L-14-quickgelu"]["embed_dim"]
    one = {"weight": torch.randn(1, width), "bias": torch.randn(1)}
    return lambda file: torch.save(tiny_scorers.mlp(width) if layers else one, file)


def esrgan(file: Path) -> None:
    """Real-ESRGAN x4plus of one block; sizes are read off the tensors."""
    torch.save({"params_ema": {name: torch.randn(shape) / 12 for name, shape in rrdb(1, False, 16).items()}}, file)


def flashvsr(prompt: bool) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        folder = tiny_flashvsr.write_flashvsr(target.with_name(f"{target.name}.all"))
        text = folder / "posi_prompt.pth"
        if prompt:
            shutil.move(text, target)
            shutil.rmtree(folder)
        else:
            text.unlink()
            shutil.move(folder, target)

    return write


def ignoring_rest(write: Callable[[Path], Any], *rest: str) -> Callable[[Path], None]:
    """Without files that the repository does not hold."""

    def only(folder: Path) -> None:
        write(folder)
        for name in rest:
            (folder / name).unlink()

    return only


MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd-1.5": lambda f: stable_diffusion(f, 16, "quick_gelu", False),
    "sd-2.0-base": lambda f: stable_diffusion(f, 24, "gelu", True),
    "sd-2.1-base": lambda f: stable_diffusion(f, 24, "gelu", True),
    "lcm-lora-sdv1-5": lcm_lora, "sdxl-base": sdxl, "controlnet-canny-sdxl": controlnet, "ip-adapter-sdxl": ip_adapter,
    "flux.1-dev": flux, "flux.1-krea-dev": flux, "sd-3.5-large": lambda f: sd3(f, True),
    "sd-3.5-medium": lambda f: sd3(f, False), "pixart-sigma-1024": pixart, "wan2.1-t2v-1.3b": wan,
    "llamagen-t2i": llamagen, "flan-t5-xl": flan, "flashvsr-v1.1": flashvsr(False), "flashvsr-prompt": flashvsr(True),
    "real-esrgan-x4plus": esrgan, "dinov2-vitb14": dino(DINO), "clip-vit-b-16": open_clip_("ViT-B-16-quickgelu"),
    "clip-vit-l-14": open_clip_("ViT-L-14-quickgelu"), "clip-iqa-rn50": open_clip_("RN50-quickgelu"),
    "hps-v2.0": hps("HPS_v2_compressed.pt"), "hps-v2.1": hps("HPS_v2.1_compressed.pt"),
    "image-reward": ignoring_rest(tiny_scorers.image_reward, "vocab.txt"), "bert-base-uncased": bert,
    "pick-score": tiny_scorers.pick, "owlv2-base": owl, "inception": inception,
    "lpips-vgg": vgg("vgg16"), "vgg19": vgg("vgg19"), "aesthetic-v1": head(False), "aesthetic-v2": head(True),
}  # fmt: skip


def write(model: Model, mirror: Path) -> bool:
    """Put a model into the mirror, with the notes that ``hf download --local-dir`` leaves; False if it is there."""
    target = mirror / (model.repository if model.hub else model.files[0])
    shared = model.hub and target.is_dir()
    if all(any(target.glob(pattern)) for pattern in model.files) if model.hub else target.exists():
        return False
    making = mirror / f".{model.name}.{os.getpid()}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logging.disable(logging.WARNING)  # open_clip: "Model initialized randomly"
        MAKERS[model.name](making)
        logging.disable(logging.NOTSET)
    if not model.hub:
        making.rename(target)
        return True
    _as_manifest_names(making, model)
    _notes(making, model.revision if model.pinned else COMMIT)
    target.parent.mkdir(parents=True, exist_ok=True)
    if shared:  # another model of the same repository
        shutil.copytree(making, target, dirs_exist_ok=True)
        shutil.rmtree(making)
    else:
        making.rename(target)
    return True


def _as_manifest_names(folder: Path, model: Model) -> None:
    """Parts in shards where the manifest speaks of them."""
    for weights in sorted(folder.rglob("*.safetensors")):
        one = weights.relative_to(folder).with_suffix("").as_posix() + "-1.safetensors"
        if any(fnmatch(one, pattern) for pattern in model.files):
            tiny_pipelines.shard(weights)


def _notes(folder: Path, commit: str) -> None:
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        data = file.read_bytes()
        large = file.suffix in (".safetensors", ".pt", ".bin", ".ckpt")
        known = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)
        note = folder / ".cache/huggingface/download" / f"{file.relative_to(folder).as_posix()}.metadata"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{commit}\n{known.hexdigest()}\n1.0\n")
