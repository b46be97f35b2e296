"""Heatmaps of classes and of boxes by gradients.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), section
3.1, eqs. 1 to 4. The form is that of Grad-CAM++ (Chattopadhay et al., WACV 2018): per position and channel a weight
from the second and third derivative of the score, per channel the sum of the weights where the gradient is positive,
per position the weighted sum of the channels.

**Which function of the score.** Eq. 1 takes the derivatives of the "confidence score" itself. Taken literally, with the
logit s of a head of convolutions and ReLUs, it is zero: such a head is linear in each activation almost everywhere, so
that its second and third derivatives vanish, and with them the weights and the map. As Grad-CAM++ does, the score is
here y = exp(s). Where s is linear in an activation with slope g, the derivatives of y are y g, y g^2 and y g^3: one
backward pass gives all of eq. 1 (:func:`closed_form`). With a smooth, curved s they have more terms, for the second
y (g^2 + s''), for the third y (g^3 + 3 g s'' + s'''), which :func:`exact_form` computes by differentiating thrice.
The head here is such a one (its two branches have a SiLU, the boxes a Huber loss), and these terms are left out: in
trained detectors the channels' weights point the same way with and without them (docs/hmpe.md).

**Whose score.** y of a class is the sum of exp(s) over the positions that belong to its objects, y of the boxes the sum
of exp(L) over all objects' positions, L the Huber loss of the position's box, with the sign that the paper gives it:
the channels that count are those whose growth would cost. A head that looks at one position at a time lets one backward
pass serve all classes, since no position belongs to two.

**Which norm** (the paper: "applies norm"). Maps are divided by their largest value, class by class, and of several
classes each position takes the hottest. So a factor common to a class, as the largest exp(s), is of no account, and is
taken out before it overflows. Then, within each object, by the object's largest value (:func:`even_out`, ours): every
object is as hot as any other, the background's positions stay. Without that the hottest positions are those of a few
objects, and queries taken there miss the others.

Shape shorthand in this module:
    B: batch, C: channels, K: classes, H, W: size of the map
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ['class_heatmap', 'closed_form', 'even_out', 'exact_form', 'heatmap_of', 'normalise']


def closed_form(gradient: Tensor, score: Tensor) -> Tensor:
    """Eq. 1 for y = exp(s) with s linear in each activation.

    Args:
        gradient (Tensor): Of s, ``(..., C, H, W)``.
        score (Tensor): s, broadcast over it.

    Returns:
        Tensor: The second and third derivatives' sum, exp(s) (g^2 + g^3), ``(..., C, H, W)``.
    """
    return score.exp() * (gradient.square() + gradient.pow(3))


def exact_form(y: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Eq. 1 for any function: the diagonal derivatives by automatic differentiation, one number at a time (slow).

    Args:
        y (Callable[[Tensor], Tensor]): From activations ``(C, H, W)`` to a scalar.
        activations (Tensor): ``(C, H, W)``.

    Returns:
        Tensor: The second and third derivatives' sum, ``(C, H, W)``.

    Example:
        >>> exact_form(lambda a: (a ** 3).sum(), torch.full((1, 1, 2), 2.0))  # 6 a + 6
        tensor([[[18., 18.]]])
    """

    def at(place: int) -> Tensor:
        value = activations.detach().flatten()[place].clone().requires_grad_()
        flat = activations.detach().flatten()
        flat = torch.cat((flat[:place], value[None], flat[place + 1 :]))
        orders, derivative = [], y(flat.view(activations.shape))
        for _ in range(3):
            if derivative.requires_grad:
                (derivative,) = torch.autograd.grad(derivative, value, create_graph=True, materialize_grads=True)
            else:  # a constant
                derivative = torch.zeros_like(value)
            orders.append(derivative.detach())
        return orders[1] + orders[2]

    return torch.stack([at(place) for place in range(activations.numel())]).view(activations.shape)


def heatmap_of(weights: Tensor, gradient: Tensor, activations: Tensor) -> Tensor:
    """Eqs. 2 and 3: from position-wise to channel-wise weights, to the map.

    Args:
        weights (Tensor): alpha of eq. 1, ``(..., C, H, W)``.
        gradient (Tensor): Of y, ``(..., C, H, W)``.
        activations (Tensor): A, ``(..., C, H, W)``.

    Returns:
        Tensor: ``(..., H, W)``, not negative.
    """
    beta = (weights * gradient.relu()).sum((-2, -1), keepdim=True)
    return (beta * activations).sum(-3).relu()


def class_heatmap(activations: Tensor, gradient: Tensor, scores: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Eqs. 1 to 3 with y = exp(s) for all classes at once, each normalised, and of these the hottest.

    Args:
        activations (Tensor): A, ``(B, C, H, W)``.
        gradient (Tensor): Of the position's own s, ``(B, C, H, W)``; not read where the label is negative.
        scores (Tensor): s, ``(B, H, W)``.
        labels (Tensor): Of the object that a position belongs to, from 0 to K - 1, or -1, ``(B, H, W)``.
        num_classes (int): K.

    Returns:
        Tensor: ``(B, H, W)``, from 0 to 1, zero in an image without objects.
    """
    shape = labels.shape
    scores, labels, activations = scores.flatten(1), labels.flatten(1), activations.flatten(2)
    members = labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None]  # (B, K, H * W)
    relative = scores[:, None].masked_fill(~members, -torch.inf)
    relative = relative - relative.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    # alpha ReLU(dy/dA) = y (g^2 + g^3) ReLU(y g) = y^2 (g^2 + g^3) ReLU(g), y over its largest value in the class
    gradient = gradient.flatten(2)
    position = closed_form(gradient, torch.zeros_like(scores[:, None])) * gradient.relu()  # (B, C, H * W)
    beta = (2 * relative).exp() @ position.transpose(1, 2)  # (B, K, C)
    return normalise((beta @ activations).relu()).amax(1).view(shape)


def normalise(maps: Tensor) -> Tensor:
    """Every row over its largest value, ``(..., N)``; a row of zeros stays."""
    largest = maps.amax(-1, keepdim=True)
    return torch.where(largest > 0, maps / largest.clamp(min=torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))


def even_out(maps: Tensor, owners: Tensor) -> Tensor:
    """Every object's positions over the object's largest value.

    Args:
        maps (Tensor): ``(B, H, W)``, not negative.
        owners (Tensor): Number of the object that a position belongs to, from 0, or -1, ``(B, H, W)``.

    Returns:
        Tensor: ``(B, H, W)``; positions of no object, and those of an object without heat, stay.

    Example:
        >>> even_out(torch.tensor([[[0.2, 0.1, 0.5, 0.8]]]), torch.tensor([[[0, 0, -1, 1]]]))
        tensor([[[1.0000, 0.5000, 0.5000, 1.0000]]])
    """
    values, places = maps.flatten(1), owners.flatten(1) + 1
    largest = values.new_zeros(len(values), int(places.max()) + 1).scatter_reduce(1, places, values, 'amax')
    largest[:, 0] = 1
    largest = largest.masked_fill(largest == 0, 1)
    return (values / largest.gather(1, places)).view(maps.shape)
