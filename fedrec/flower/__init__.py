"""Every adapter to Flower, and all that touches what Flower does not promise. Tried on flwr 1.41.0.

Flower's next release (HTTP alone, no gRPC, `should_stop`) should cost this room and no other. Promised by Flower, and
used as documented: ClientApp, ServerApp, Grid, Message, RecordDict, ArrayRecord. Not promised:

| where | what | why |
| --- | --- | --- |
| transport | `flwr.supercore.task_identity.TaskIdentity` | `Message(...)` refuses to be made outside a task |
| transport | `Metadata.__dict__["_message_id"]` | the SuperLink gives messages their ids; here is none |
| transport, replies | `HttpGrid._runtime_client`, its `httpx` hooks, `._run` | each reply is pulled by itself |
| replies | form of deflated objects and trees, `*_pb2` | checked before it is inflated |
| fleet | `FleetHttpClient`, its `httpx` hooks, its two interceptors, `HeartbeatSender`, `*_pb2` | a device stays warm |
| fleet | `get_object_tree`, `get_all_nested_objects`, `remove_content_from_message` | a reply as Flower stores it |
| superlink | options of `flower-superlink` | TLS, keys, nothing installed at run time |
| superlink | `flwr run, list, stop, supernode register --format json`, `config.toml` | there is no Python API |
| own_superlink | `flwr.superlink.extensions.get_middleware`, `cli.flower_superlink` | it answers its own user alone |
| own_superlink | `sql_mixin.SQLITE_PRAGMAS`, `flower_superlink._get_superexec_command` | runs start when busy |
| front | paths under `/v1/fleet/`, headers `flwr-public-key`, `-timestamp`, `-signature` | devices alone get in |
| ray | `flwr federation simulation-config @none/default` | sets the size of a simulation |

Tests hold each of them: tests/unit/flower, tests/contracts/test_nodes.py, tests/end_to_end/test_ray.py.
"""
