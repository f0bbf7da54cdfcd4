"""The server: FedAdam over the clients, with a checkpoint after every round."""

import random

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam

from digitsapp.task import Net, load_testset, test
from recordstore import RecordStore
from recordstore.flower import Checkpointer

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for ``num-server-rounds`` rounds in all, whether this is the first start or one after a crash."""
    config = context.run_config
    random.seed(config["seed"])  # Flower draws from it which clients train
    torch.manual_seed(config["seed"])
    arrays = ArrayRecord(Net().state_dict())
    testloader = load_testset(config["batch-size"])

    def global_evaluate(_server_round: int, arrays: ArrayRecord) -> MetricRecord:
        net = Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = test(net, testloader)
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    strategy = FedAdam(fraction_train=config["fraction-train"])
    with RecordStore(config["checkpoints"]) as store:
        checkpointer = Checkpointer(store, run=config["run-name"])
        checkpointer.start(  # without checkpoints: strategy.start(
            strategy,
            grid=grid,
            initial_arrays=arrays,
            num_rounds=config["num-server-rounds"],
            train_config=ConfigRecord({"lr": config["lr"]}),
            evaluate_fn=global_evaluate,
        )
