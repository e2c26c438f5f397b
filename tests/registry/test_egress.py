from __future__ import annotations

import ipaddress

import pytest

from rayplat.errors import InvalidInput
from rayplat.registry.egress import EgressRules, resolve

OPEN = EgressRules(allow_http=True, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "hooks.example.com",
        "https://",
        "https:///path",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com/#part",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nX: 1",
        "https://bücher.example/",
        "https://[::1%25lo]/",
        "https://-hooks.example.com/",
        "https://" + "a" * 64 + ".example.com/",
        "https://hooks.example.com/" + "a" * 3000,
        # addresses in disguise
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://0/",
        "https://127.0.0.1./",
        # inside the network
        "https://localhost/",
        "https://api.localhost/",
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://192.0.2.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[fc00::1]/",
        "https://[fd12:3456::1]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://[2001:db8::1]/",
    ],
)
def test_what_is_no_receiver_outside_the_network_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as e:
        EgressRules().target(url)
    assert e.value.field == "url"


@pytest.mark.parametrize("url", ["https://2130706433/", "https://0x7f.1/", "https://user@hooks.example.com/"])
def test_an_address_in_disguise_is_refused_even_where_private_ones_are_permitted(url: str) -> None:
    with pytest.raises(InvalidInput):
        OPEN.target(url)


def test_a_receiver_outside_is_taken_apart() -> None:
    target = EgressRules().target("https://Hooks.Example.com:8443/a/b?c=d")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "hooks.example.com", 8443, "/a/b?c=d")
    assert target.host_header == "hooks.example.com:8443"
    assert EgressRules().target("https://hooks.example.com.").host_header == "hooks.example.com"
    assert EgressRules().target("https://[2606:4700::1111]/").host_header == "[2606:4700::1111]"
    assert EgressRules().target("https://93.184.216.34/").host == "93.184.216.34"


def test_every_address_of_a_name_counts() -> None:
    outside, inside = ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address("10.0.0.7")
    EgressRules().check("hooks.example.com", [outside])
    with pytest.raises(InvalidInput, match=r"hooks.example.com \(10.0.0.7\) is an address inside the network"):
        EgressRules().check("hooks.example.com", [outside, inside])


def test_the_settings_permit_what_they_name_and_no_more() -> None:
    listed = EgressRules(allow=("10.0.0.0/8", "ci.internal", "169.254.169.254"))
    listed.target("https://10.1.2.3/")
    listed.target("https://[::ffff:10.1.2.3]/")
    listed.target("https://169.254.169.254/")
    listed.check("ci.internal", [ipaddress.ip_address("192.168.0.9")])
    with pytest.raises(InvalidInput):
        listed.check("other.internal", [ipaddress.ip_address("192.168.0.9")])
    OPEN.target("http://127.0.0.1:8080/")
    OPEN.target("http://[fd00::1]/")
    for url in ("http://169.254.169.254/", "http://[fe80::1]/", "http://0.0.0.0/"):
        with pytest.raises(InvalidInput):
            OPEN.target(url)


def test_a_literal_address_is_asked_of_nobody() -> None:
    assert [str(a) for a in resolve(EgressRules().target("https://93.184.216.34/"))] == ["93.184.216.34"]
