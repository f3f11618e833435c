"""What code for the public hub repository calls on a model, besides its properties and its forward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from radio.modeling.description import DescribedModel


class HubSurface(DescribedModel):
    """The public code's methods.

    Attributes:
        input_conditioner: Input normalization.
    """

    input_conditioner: nn.Module

    def make_preprocessor_external(self) -> nn.Module:
        """Take the input normalization out of the model.

        Returns:
            The conditioner. From now on the caller applies it, and the model expects its output.
        """
        conditioner, self.input_conditioner = self.input_conditioner, nn.Identity()
        return conditioner

    def cpe_video_mode(self, t: int) -> AbstractContextManager[None]:
        """While training, t consecutive images of a batch (one clip) share a random position crop.

        Use it as ``with model.cpe_video_mode(t): ...``. At inference it changes nothing.
        """
        self.require(video=True)
        generator = self.backbone.patch_generator
        return nullcontext() if generator is None else generator.video_mode(t)

    def switch_to_deploy(self) -> None:
        """Fold training-time structure for deployment. There is none, so this does nothing."""
