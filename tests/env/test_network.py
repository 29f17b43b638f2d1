"""Whether a server answers is asked again: the network may come back."""

from mlm.env import network


def test_the_network_may_come_back(monkeypatch):
    network.endpoint_error.cache_clear()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    answers, now = ["ConnectionError", None], [0.0]
    monkeypatch.setattr(network, "connection_error", lambda url: answers.pop(0))
    monkeypatch.setattr(network.time, "monotonic", lambda: now[0])
    assert network.hub_is_unreachable("me/mine") and network.hub_is_unreachable("me/other")
    now[0] = 60.0
    assert not network.hub_is_unreachable("me/mine") and not answers
    network.endpoint_error.cache_clear()
