"""The model, the data, and how to train and test."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

TEST_EXAMPLES = 360


class Net(nn.Module):
    """A small CNN for images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one score for each of the ten digits."""
        features = functional.relu(self.conv1(images))
        features = self.pool(functional.relu(self.conv2(features)))
        return self.fc2(functional.relu(self.fc1(features.flatten(1))))


@cache
def load_dataset() -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the test examples of the 1,797 digits that ship inside scikit-learn."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_EXAMPLES], order[TEST_EXAMPLES:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def load_partition(
    partition_id: int, num_partitions: int, batch_size: int, seed: int = 0
) -> tuple[DataLoader, DataLoader]:
    """Return the training and the validation examples of one client; the seed decides the order of the former."""
    images, labels = load_dataset()[0][partition_id::num_partitions]
    train = len(labels) * 4 // 5
    order = torch.Generator().manual_seed(seed)
    trainset = TensorDataset(images[:train], labels[:train])
    valset = TensorDataset(images[train:], labels[train:])
    return DataLoader(trainset, batch_size, shuffle=True, generator=order), DataLoader(valset, batch_size)


def load_testset(batch_size: int) -> DataLoader:
    """Return the examples that no client has, for the server."""
    return DataLoader(load_dataset()[1], batch_size)


def train(net: nn.Module, trainloader: DataLoader, epochs: int, lr: float) -> float:
    """Train the model and return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(trainloader))


@torch.no_grad()
def test(net: nn.Module, testloader: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    net.eval()
    total, correct = 0.0, 0
    for images, labels in testloader:
        scores = net(images)
        total += functional.cross_entropy(scores, labels, reduction="sum").item()
        correct += int((scores.argmax(dim=1) == labels).sum())
    examples = len(testloader.dataset)
    return total / examples, correct / examples
