"""What to cite for a pre-trained encoder: its method, its architecture, and the benchmark whose settings it uses."""

from __future__ import annotations

from typing import Any

BENCHMARK = "Wald, T., et al. (2025). An OpenMind for 3D medical vision self-supervised learning. arXiv:2412.17041"
NNUNET = (
    "Isensee, F., et al. (2024). nnU-Net revisited: A call for rigorous validation in 3D medical image segmentation. "
    "MICCAI. arXiv:2404.09556"
)
PRIMUS = (
    "Wald, T., et al. (2025). Primus: Enforcing attention usage for 3D medical image segmentation. arXiv:2503.01835"
)
ENCODERS = {"resenc": ("ResEnc", NNUNET), "primus": ("Primus", PRIMUS)}
MAE = "He, K., et al. (2022). Masked autoencoders are scalable vision learners. CVPR. arXiv:2111.06377"
S3D = "Wald, T., et al. (2024). Revisiting MAE pre-training for 3D medical image segmentation. arXiv:2410.23132"
SIMMIM = "Xie, Z., et al. (2022). SimMIM: A simple framework for masked image modeling. CVPR. arXiv:2111.09886"
GENESIS = "Zhou, Z., et al. (2021). Models Genesis. Medical Image Analysis 67, 101840. arXiv:2004.07882"
FUSION = (
    "Wang, G., et al. (2023). MIS-FM: 3D medical image segmentation using foundation models pretrained on a "
    "large-scale unannotated dataset. arXiv:2306.16925"
)
VOCO = (
    "Wu, L., Zhuang, J., & Chen, H. (2024). VoCo: A simple-yet-effective volume contrastive learning framework for 3D "
    "medical image analysis. CVPR. arXiv:2402.17300"
)
SIMCLR = (
    "Chen, T., et al. (2020). A simple framework for contrastive learning of visual representations. ICML. "
    "arXiv:2002.05709"
)
SWIN = (
    "Tang, Y., et al. (2022). Self-supervised pre-training of Swin Transformers for 3D medical image analysis. CVPR. "
    "arXiv:2111.14791"
)
METHODS = {
    "mae": ("MAE", MAE),
    "s3d": ("S3D", S3D),
    "simmim": ("SimMIM", SIMMIM),
    "models_genesis": ("Models Genesis", GENESIS),
    "volume_fusion": ("VolumeFusion", FUSION),
    "voco": ("VoCo", VOCO),
    "simclr": ("SimCLR", SIMCLR),
    "swin_unetr": ("SwinUNETR pre-training", SWIN),
}


def citations(method: str, encoder: str) -> list[dict[str, Any]]:
    """Return what to cite, in the form of published checkpoints."""
    parts = (
        ("Pretraining", *METHODS[method]),
        ("Architecture", *ENCODERS[encoder]),
        ("Benchmark", "OpenMind", BENCHMARK),
    )
    return [{"type": kind, "name": name, "apa_citations": [text]} for kind, name, text in parts]
