"""Each branch learns to tell the last features of its peers from its own.

    L_i = CE_i + mean_{j != i} mean((R_ij f_i - norm(f_j))^2)

R_ij are linear maps at each place of the feature maps, learned with the
branches and part of no export; norm divides by the standard deviation over
the channels. The greater map is averaged to the size of the other.

The idea is that of Romero et al., FitNets: Hints for Thin Deep Nets, ICLR
2015, https://arxiv.org/abs/1412.6550. There a network that was trained before
gives hints of a middle layer before the other training begins; public code
(mdistiller) adds them at weight 100, without norm. The weight of 1 is this
plugin's. Features that are followed are detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(_delete_=True, type='mcod_plugin.FeatureKDLoss'))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
