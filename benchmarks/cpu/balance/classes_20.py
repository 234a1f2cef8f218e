"""The 20 superclasses of CIFAR-100, of five classes each."""
_base_ = 'base.py'
settings = {
    'train_dataloader.dataset.label': 'coarse',
    'val_dataloader.dataset.label': 'coarse',
    'test_dataloader.dataset.label': 'coarse',
    'data_preprocessor.num_classes': 20,
    'model.branches.resnet.head.num_classes': 20,
    'model.branches.vgg.head.num_classes': 20,
}
