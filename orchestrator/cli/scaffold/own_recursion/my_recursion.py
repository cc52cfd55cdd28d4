"""Change the recursion of the model. Usually one method is enough: the repository's docs/model.md has the others."""

from trm_model import Recursion


class MyRecursion(Recursion):
    """Show the input to the network again when it refines its answer."""

    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        """Refine the latent several times, then the answer once. Tensors are (batch, length, width)."""
        answer, latent = super().cycle(states, input_BLD, rotary, steps_without_gradient)
        return self.refine_answer(answer + input_BLD, rotary), latent
