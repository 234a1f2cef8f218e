"""Every tenth class of CIFAR-100: apple, bowl, chair, dolphin, lamp, mouse,
plain, rose, squirrel, train, of nine superclasses."""
_base_ = 'base.py'
settings = {
    'train_dataloader.dataset.classes': list(range(0, 100, 10)),
    'val_dataloader.dataset.classes': list(range(0, 100, 10)),
    'test_dataloader.dataset.classes': list(range(0, 100, 10)),
    'data_preprocessor.num_classes': 10,
    'model.branches.resnet.head.num_classes': 10,
    'model.branches.vgg.head.num_classes': 10,
}
