from .multi_backbone_classifier import MultiBackboneClassifier

__all__ = ['MultiBackboneClassifier']
