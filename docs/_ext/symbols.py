"""Symbols and definitions of the statistics in LaTeX. A bar is \\vert, because symbols are used in Markdown tables."""

SYMBOLS: dict[str, tuple[str, str]] = {
    "weight": (r"\theta", r"\theta"),
    "uniform": ("u", r"u \;\sim\; \mathcal{U}(0,\, 1)"),
    "gradient": (
        "g",
        r"g = \frac{1}{N} \sum_{i=1}^{N} g_i, \qquad "
        r"g_i = \frac{\partial \ell(f(x_i;\, \theta), y_i)}{\partial \theta}",
    ),
    "fisher_diagonal": (
        "F",
        r"F = \frac{1}{N} \sum_{G} \left( \sum_{i \in G} g_i \right)^2, \qquad |G| = \mathrm{fisher\_batch\_size}",
    ),
    "hessian_gradient": (
        "(Hg)",
        r"H g = \frac{\partial}{\partial \theta} \left\langle g(\theta),\, g \right\rangle, \qquad "
        r"g = \frac{\partial}{\partial \theta} \frac{1}{N} \sum_i \ell\left(f(x_i;\, \theta) / T,\, y_i\right)",
    ),
    "hessian_diagonal": (
        "h",
        r"h = \frac{1}{K} \sum_{k=1}^{K} v_k \odot H v_k, \qquad v_k \in \{-1, 1\}^d",
    ),
    "synaptic_flow": (
        r"\frac{\partial R}{\partial \vert\theta\vert}",
        r"R = \mathbf{1}^\top f(\mathbf{1};\, \vert\theta\vert)",
    ),
    "squared_synaptic_flow": (
        r"\frac{\partial R}{\partial \theta^2}",
        r"R = \mathbf{1}^\top f(\mathbf{1};\, \theta^2)",
    ),
    "meta_gradient": (
        r"\frac{\partial L(\theta_M)}{\partial m}",
        r"\theta_0 = m \odot \theta, \qquad v_{t+1} = \mu v_t + \frac{\partial L_t(\theta_t)}{\partial \theta_t}, "
        r"\qquad \theta_{t+1} = \theta_t - \eta\, v_{t+1}, \qquad m = \mathbf{1}",
    ),
    "ntk_sensitivity": (
        "S",
        r"S = \frac{\partial}{\partial m} \sum_{z, \Delta} \left\| f(z;\, \theta' \odot m) - "
        r"f(z;\, (\theta' + \Delta) \odot m) \right\|^2",
    ),
    "path_walks": ("p", r"p = -\min \{\, t \;:\; \text{walk } t \text{ visits the weight} \,\}"),
}
