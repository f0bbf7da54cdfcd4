"""The client: trains and evaluates the global model on its own share of the digits."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digitsapp.task import Net, load_partition
from digitsapp.task import test as test_fn
from digitsapp.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the global model on the client's own examples."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    # A resumed round draws what the lost one drew: the seed depends on the round and the client, on nothing else.
    seed = msg.content["config"]["server-round"] * num_partitions + partition_id
    trainloader, _ = load_partition(partition_id, num_partitions, context.run_config["batch-size"], seed)

    loss = train_fn(net, trainloader, context.run_config["local-epochs"], msg.content["config"]["lr"])

    metrics = MetricRecord({"train_loss": loss, "num-examples": len(trainloader.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the global model on the client's own examples."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    _, valloader = load_partition(partition_id, num_partitions, context.run_config["batch-size"])

    loss, accuracy = test_fn(net, valloader)

    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(valloader.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
