# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenarios with a far client: 20 ms there and back, frames of 1500 octets, one in a thousand lost, 1 Gbit/s.

Client, proxy and server are in network namespaces of their own (network.py); the proxy and the server are neighbours.
"""
import measure
import network

NETWORK = {"delay_ms": 10, "loss": 0.001, "rate": "1g", "seed": 1}


def missing(options):
    return network.missing(options.build + "/ringpost-wire")


def run(peer, scenario, options):
    try:
        with network.Network(wire=options.build + "/ringpost-wire", wire_cpu=options.load_cpu, **NETWORK) as net:
            r = measure.run(peer, scenario, options, net)
            stats = net.stats()
            spoiled = net.spoiled(stats)
    except network.NetworkError as e:
        return {"failed": str(e)}
    if "failed" not in r:
        r["wire"] = {"late_us": stats["late_us"], **{k: stats["a_to_b"][k] + stats["b_to_a"][k] for k in ("frames", "lost", "dropped")}}
    return {"failed": "; ".join(spoiled)} if spoiled else r
