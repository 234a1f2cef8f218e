"""Each branch alone, and validated with its weights averaged over steps.

    L_i = CE_i,  average = 0.99 average + 0.01 weights in each step

An average over some hundred steps, as a short run asks for.
"""
_base_ = '../../../configs/methods/solo.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=0.01, update_buffers=True)
]
