"""The model that people hold: the network, with images of any kind in and folders of weights out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, overload

import torch
from huggingface_hub import HfApi
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import Self, Unpack

from radio.catalog import Release
from radio.checkpoints import write_hub_repo
from radio.encoding import Encoding, encode_images, pack_channels, packed_frames
from radio.errors import ImageError
from radio.images import ImageInput, SizeSpec, image_name, load_image, resize_image
from radio.modeling.input_conditioner import InputConditioner
from radio.modeling.network import FeatureFormat, RADIONetwork
from radio.modeling.placement import is_offloaded
from radio.modeling.signatures import OutputT
from radio.modeling.token_merging import InNetworkMerging, TokenMerging
from radio.opening import LoadOptions, open_model
from radio.runtimes.backbone import RuntimeBackbone


class RADIOModel(RADIONetwork[OutputT]):
    """A RADIO model. Build it with `radio.load_model`.

    For type checkers it is a ``RADIOModel[RadioOutput]``, or with adaptors a ``RADIOModel[dict[str, RadioOutput]]``:
    what calling it gives.

    Attributes:
        checkpoint_path: The file or folder that the weights came from.
        release: The catalog's row of the version, or None for weights of no released version.
    """

    checkpoint_path: Path
    release: Release | None = None

    @property
    def runtime(self) -> str:
        """What computes the backbone: ``"pytorch"``, or what `radio.load_model` was given as ``runtime``."""
        return self.backbone.runtime if isinstance(self.backbone, RuntimeBackbone) else "pytorch"

    def resize(self, image: ImageInput, size: SizeSpec = None) -> Tensor:
        """One image at a size that this model supports. Everything that runs the model on images resizes here.

        Args:
            image: As `radio.images.load_image` takes it.
            size: How large it becomes (see `radio.images.target_size`); by default the supported size nearest to its
                own, at most `max_resolution`.

        Returns:
            (3, H, W) float32 in [0, 1], H and W multiples of `min_resolution_step`; on the device of a tensor that
            was given, else on the CPU. ``model(model.resize("photo.jpg")[None].to(model.device))`` runs it.

        Raises:
            ImageError: The image cannot be read, its values are not in [0, 1], or it is too long for this size.
            ValueError: The size has another form or does not fit the model; the message says which sizes do.
        """
        pixels = load_image(image)
        try:
            resized = resize_image(
                pixels,
                size,
                step=self.min_resolution_step,
                patch_size=self.patch_size,
                max_side=self.max_resolution,
                preferred=min(self.preferred_resolution),
            )
        except ImageError as error:
            raise ImageError(f"{image_name(image)}: {error}") from None
        if size is None:
            height, width = resized.shape[-2:]
            self._warnings.check_size(height, width, self.preferred_resolution)
        return resized

    @overload
    def encode(
        self,
        images: str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any] | Image.Image,
        size: SizeSpec = None,
        feature_fmt: FeatureFormat = "NLC",
        batch_size: int = 8,
        merge: TokenMerging | Sequence[TokenMerging] | None = None,
        tome: InNetworkMerging | None = None,
        normalize: bool = False,
        num_tokens: int | None = None,
        pack_frames: bool = False,
    ) -> Encoding: ...

    @overload
    def encode(
        self,
        images: list[Any] | tuple[Any, ...] | Iterator[Any],
        size: SizeSpec = None,
        feature_fmt: FeatureFormat = "NLC",
        batch_size: int = 8,
        merge: TokenMerging | Sequence[TokenMerging] | None = None,
        tome: InNetworkMerging | None = None,
        normalize: bool = False,
        num_tokens: int | None = None,
        pack_frames: bool = False,
    ) -> list[Encoding]: ...

    @overload
    def encode(
        self,
        images: Tensor | NDArray[Any],
        size: SizeSpec = None,
        feature_fmt: FeatureFormat = "NLC",
        batch_size: int = 8,
        merge: TokenMerging | Sequence[TokenMerging] | None = None,
        tome: InNetworkMerging | None = None,
        normalize: bool = False,
        num_tokens: int | None = None,
        pack_frames: bool = False,
    ) -> Any: ...

    def encode(
        self,
        images: ImageInput | Sequence[ImageInput] | Iterator[ImageInput],
        size: SizeSpec = None,
        feature_fmt: FeatureFormat = "NLC",
        batch_size: int = 8,
        merge: TokenMerging | Sequence[TokenMerging] | None = None,
        tome: InNetworkMerging | None = None,
        normalize: bool = False,
        num_tokens: int | None = None,
        pack_frames: bool = False,
    ) -> Encoding | list[Encoding]:
        """Features of one image or several, of any kind and size. No gradients.

        Args:
            images: Paths, PIL images, NumPy arrays or tensors (see `radio.images.load_image`), one or a list; or a
                batch as a tensor (B, 3, H, W) or an array (B, H, W, 3). Of an iterator, such as the frames of a video
                (`radio.data.video.sample_frames`), or a data set of `datasets`, one batch is held at a time. A clip as
                a tensor is a batch.
            size: How large each image becomes (see `radio.images.target_size`); by default the supported size nearest
                to its own, at most `max_resolution`.
            feature_fmt: ``"NLC"`` for features (1, L, C), ``"NCHW"`` for (1, C, h, w).
            batch_size: Images per forward pass. Images of one size run as a batch, others packed.
            merge: Merge the spatial features to fewer tokens; one for all images or one for each.
            tome: Merge tokens inside the network, which is faster and approximate; not with ViTDet windows.
            normalize: Scale every summary to length 1 (L2): the whole, each teacher's part, and each adaptor's. Dot
                products of summaries are cosine similarities then. Features stay as they are.
            num_tokens: RADIO1D only: how many condensed tokens are kept; all if None.
            pack_frames: The images are the frames of a video, of one size; encode so many of them together as one that
                the model has a projection for (`config.video_temporal_patch_size`). The last frame is repeated if need
                be.

        Returns:
            An `Encoding` (summary, features, summary_by_teacher, adaptors, image_size, grid), or a list of them for
            several images. `Encoding.numpy` makes NumPy arrays of it. (Whether a tensor or an array is one image or a
            batch depends on its dimensions, which a type checker does not know; there it sees ``Any``.)

        Raises:
            ImageError: An image cannot be read, or its values are not in [0, 1].
            RuntimeError: The preprocessor was made external.
            ValueError: A size, format or batch size that makes no sense.
        """
        prepare: Callable[[Any], Tensor] = partial(self.resize, size=size)
        sources: Any = images
        if pack_frames:
            prepare = partial(pack_channels, prepare)
            sources = packed_frames(images, self.config.video_temporal_patch_size)
        encoded = encode_images(self, sources, prepare, feature_fmt, batch_size, merge, tome, num_tokens)
        if not normalize:
            return encoded
        return [one.normalized() for one in encoded] if isinstance(encoded, list) else encoded.normalized()

    def save_pretrained(
        self, folder: str | Path, safe_serialization: bool = True, max_shard_size: int | str | None = None
    ) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` in the Hub layout.

        ``load_model(folder)`` reads them back bit for bit. Only adaptors that are built are written; to convert a
        file with all of its adaptors use ``radio convert``. transformers' ``RadioModel`` opens the folder too, where
        that class can hold the model, and its ``AutoImageProcessor`` makes pixels for it (docs/interchange.md).

        Args:
            folder: Made if it does not exist.
            safe_serialization, max_shard_size: For code that is written for transformers. Weights are always in one
                safetensors file.

        Raises:
            RuntimeError: The preprocessor was made external, so the model does not have its normalization, or the
                weights are quantized or offloaded.
            ValueError: The backbone runs in another runtime than PyTorch, which has its weights; or other files than
                safetensors are asked for.
            OSError: The folder cannot be written.
        """
        if not safe_serialization:
            raise ValueError("save_pretrained writes safetensors only; leave safe_serialization=False out")
        self.require(saving=True)
        if not isinstance(self.input_conditioner, InputConditioner):
            raise RuntimeError(
                "the preprocessor was made external; set model.input_conditioner to it again before saving"
            )
        if is_offloaded(self):
            raise RuntimeError(
                "accelerate keeps some weights of this model elsewhere; bring them back before saving, with "
                "accelerate.hooks.remove_hook_from_submodules(model)"
            )
        if any(type(value) is not torch.Tensor for value in self.state_dict().values()):
            raise RuntimeError(
                "the model holds quantized or otherwise wrapped weights, which the Hub layout has no place for; "
                "save it first and quantize what you load"
            )
        built = tuple(adaptor for adaptor in self._config.adaptors if adaptor.name in (self.adaptors or {}))
        config = replace(
            self._config,
            adaptors=built,
            depth=len(self.blocks) if self._config.depth else 0,
            summary_idxs=self._summary_idxs,
            dtype=str(self.dtype).removeprefix("torch."),
            vitdet_window_size=self.window_size,
            eradio=self._config.eradio and replace(self._config.eradio, window_size=self.model.window_size),
        )
        write_hub_repo(folder, config, self.state_dict())

    @classmethod
    def from_pretrained(
        cls,
        version_or_path: str | Path,
        adaptors: str | Sequence[str] | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        **options: Unpack[LoadOptions],
    ) -> Self:
        """The same as `radio.load_model`, under the name that Hub users expect; a subclass gives its own kind."""
        model, checkpoint = open_model(cls, version_or_path, adaptors, device, dtype, **options)
        model.checkpoint_path, model.release = checkpoint.path, checkpoint.release
        return model

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload RADIO model",
    ) -> str:
        """Upload the model to the Hugging Face Hub in the Hub layout.

        Args:
            repo_id: ``"owner/name"``; made if it does not exist.
            private: Whether a new repository is private.
            token: Hugging Face token, if not the stored one.
            commit_message: Message of the commit.

        Returns:
            The address of the commit.

        Raises:
            OSError: The Hub cannot be reached or refuses.
        """
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))
