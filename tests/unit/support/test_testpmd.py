from tests.support.testpmd import PortStats, parse_stats, pmd_command

PRINTED = """show port stats all

  ######################## NIC statistics for port 0  ########################
  RX-packets: 12         RX-missed: 3          RX-bytes:  720
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 45         TX-errors: 6          TX-bytes:  2700

  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0

  ######################## NIC statistics for port 1  ########################
  RX-packets: 0          RX-missed: 0          RX-bytes:  0
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 7          TX-errors: 0          TX-bytes:  0
testpmd> """  # noqa: W291


def test_statistics() -> None:
    assert parse_stats(PRINTED) == {0: PortStats(12, 3, 45, 6), 1: PortStats(0, 0, 7, 0)}
    assert parse_stats("testpmd> ") == {}


def test_command() -> None:
    words = pmd_command(["net_virtio_user0,path=/a"], prefix="x", mode="io", queues=2)
    assert words[words.index("--vdev") + 1] == "net_virtio_user0,path=/a"
    assert words.index("--vdev") < words.index("--") < words.index("--forward-mode=io")
    assert {"--rxq=2", "--txq=2"} < set(words)
