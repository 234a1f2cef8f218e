# ResNet-32 beside timm's VGG-16 with batch norm. Without features_only timm
# keeps the 4096-wide layers of the ImageNet network. num_classes is the data
# set's.
model = dict(
    type='mcod_plugin.MultiBackboneClassifier',
    branches=dict(
        resnet=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=32),
            head=dict(type='LinearClsHead', num_classes=100)),
        vgg=dict(
            backbone=dict(
                type='TIMMBackbone',
                model_name='vgg16_bn',
                features_only=True),
            head=dict(type='LinearClsHead', num_classes=100))),
    teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=3.0))
