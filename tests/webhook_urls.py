"""URLs and addresses that no webhook may be sent to, by what is said of them."""
# ruff: noqa: RUF001, SIM905 - look-alikes are what it is about, and a table of words reads better than a list of them

from __future__ import annotations

from typing import Final

NOT_PUBLIC: Final = "not public"
NO_ADDRESS: Final = "uncommon form"
NO_NAME: Final = "no domain name"
UNREADABLE: Final = "cannot be read"
CHARACTER: Final = "a space, a backslash or a control character"

HOSTS: Final = {
    NOT_PUBLIC: """
        127.0.0.1  127.0.0.2  127.255.255.254  0.0.0.0  10.0.0.1  10.255.255.255  172.16.0.1  172.31.255.255
        192.168.1.1  100.64.0.1  100.127.255.254  100.100.100.200  169.254.169.254  169.254.0.1  192.0.0.1
        192.0.0.192  192.0.2.1  192.31.196.1  192.52.193.1  192.88.99.1  192.175.48.1  198.18.0.1  198.19.255.255
        198.51.100.1  203.0.113.1  224.0.0.1  239.255.255.255  240.0.0.1  255.255.255.255  168.63.129.16
        [::1]  [::]  [0:0:0:0:0:0:0:1]  [0000:0000:0000:0000:0000:0000:0000:0001]
        [::ffff:127.0.0.1]  [::ffff:7f00:1]  [::FFFF:10.0.0.1]  [0:0:0:0:0:ffff:169.254.169.254]
        [::127.0.0.1]  [::7f00:1]  [::8.8.8.8]  [::ffff:0:127.0.0.1]  [::ffff:0:8.8.8.8]
        [64:ff9b::127.0.0.1]  [64:ff9b::a9fe:a9fe]  [64:ff9b:1::7f00:1]  [64:ff9b:1::8.8.8.8]
        [2002:7f00:1::]  [2002:7f00:0001::1]  [2002:0808:0808::1]  [2001::1]  [2001:0:7f00:1::]  [2001:0:4136:e378::1]
        [2001:2::1]  [2001:10::1]  [2001:20::1]  [2001:db8::1]  [2002::]  [2620:4f:8000::1]  [3ffe::1]  [3fff::1]
        [5f00::1]  [100::1]  [100:0:0:1::1]  [fe80::1]  [fec0::1]  [fc00::1]  [fd00:ec2::254]  [fdff::1]  [ff02::1]
        [ff0e::1]  [4000::1]  [1fff::1]
        localhost  LOCALHOST  LocalHost  foo.localhost  localhost.localdomain  metadata  intranet  receiver
        metadata.google.internal  printer.local  x.onion  wiki.corp  nas.lan  router.home  a.home.arpa
        1.0.0.127.in-addr.arpa  x.test  x.example  x.invalid
    """.split(),
    NO_ADDRESS: """
        127.1  127.0.1  0  00  1  0x0  0x  0x1  2130706433  0x7f000001  0X7F000001  017700000001  0177.0.0.1  0x7f.1
        0x7f.0.0.1  0177.0.0.0x1  127.0.0.0x1  127.0.0.01  127.000.000.001  127.0.0.1.1  a.127  x.0x7f  2852039166
        0xA9FEA9FE  169.254.43518  0251.0376.0251.0376  256.1.1.1  1.2.3.256  4294967296  99999999999999999999
        8.8.8  8.8  134744072  0x8080808  0x8.8.8.8  010.8.8.8  08.8.8.8  8.8.8.008  127。0。0。1  8。8。8。8
        8．8．8．8  [:::1]  [::1::]  [1]  [::12345]  [127.0.0.1]  [8.8.8.8]  [0:0:0:0:0:0:0:0:1]
        [::ffff:127.1]  [::ffff:0177.0.0.1]  [::ffff:256.0.0.1]
    """.split(),
    NO_NAME: [
        *("127.0.0.1.", "127.0.0.1..", "8.8.8.8.", "localhost.", "company.com.", ".", "..", ".com", "a..com", "-a.com"),
        *("a-.com", "a.-b.com", "a.com-", "*.company.com", "a,b.com", "a;b.com", "a'b.com", "a$(id).com", "a=b.com"),
        *("a" * 64 + ".com", "a." * 126 + "com", "ü" * 64 + ".com", "a_ü.com", "-ü.com", "♥.com", "١٢٧.0.0.1"),
        *("１２７.0.0.1", "１２７．０．０．１", "①②⑦.0.0.1", "١٢٧.٠.٠.١", "ⓛocalhost", "ｌocalhost", "localhos𝐭"),
        *("ex①mple.com", "ＣＯＭＰＡＮＹ.com"),
    ],
    UNREADABLE: [
        *(
            "127%2e0%2e0%2e1",
            "%31%32%37.0.0.1",
            "%6cocalhost",
            "local%68ost",
            "company.com%00.evil.com",
            "%00",
            "a%20b.com",
        ),
        *(
            "[::1%lo]",
            "[::1%25lo]",
            "[fe80::1%25eth0]",
            "[fe80::1%1]",
            "[2606:4700::1%25eth0]",
            "[",
            "]",
            "[]",
            "[[::1]]",
        ),
        *("[::1", "::1]", "::1", "[::1].com", "a[::1]", "[::1]a", "[g::1]", "[::1][::1]"),
    ],
    "a user or a password": [
        *(
            "user@127.0.0.1",
            "user:password@127.0.0.1",
            "company.com@127.0.0.1",
            "company.com:443@127.0.0.1",
            "@127.0.0.1",
        ),
        *(":@127.0.0.1", "a@b@127.0.0.1", "127.0.0.1@company.com", "user@company.com", "company.com%40@127.0.0.1"),
    ],
    CHARACTER: [
        *(
            r"company.com\@127.0.0.1",
            r"127.0.0.1\.company.com",
            "\\127.0.0.1",
            "127.0.0.1\t",
            "127.0.\n0.1",
            "127.0.0.1\r",
        ),
        *(
            "127.0.0.1 ",
            " 127.0.0.1",
            "company.com\x00",
            "127.0.0.1\x7f",
            "loc\xadalhost",
            "127\u200b.0.0.1",
            "a\u202e.com",
        ),
        *("127.0.0.1\u3000", "\ufeff127.0.0.1", "a\ud800.com", "127.0.0.1\u2028"),
    ],
    "a fragment": ["company.com#@127.0.0.1", "127.0.0.1#", "#", "#company.com"],
}
"""What stands between https:// and the port."""

URLS: Final = {
    "no whole URL": """
        127.0.0.1:443/  localhost  //127.0.0.1/  /hook  https:  https:/127.0.0.1/  https:127.0.0.1  http:/127.0.0.1/
        javascript:alert(1)  x  ?    data:,x  mailto:a@b.com  ://127.0.0.1/  1https://127.0.0.1/  ht.tp:/127.0.0.1
    """.split(),
    "starts with": """
        http://company.com/  HTTP://company.com:443/  ftp://127.0.0.1/  file:///etc/passwd  file://127.0.0.1/etc/passwd
        gopher://127.0.0.1:6379/_FLUSHALL  dict://127.0.0.1:11211/  redis://127.0.0.1/  unix:///var/run/docker.sock
        ws://company.com/  wss://company.com/  ssh://127.0.0.1/  httpss://company.com/  http+unix://%2Fvar%2Frun/x
    """.split(),
    UNREADABLE: """
        https://  https:///  https:///127.0.0.1/  https:////127.0.0.1/  https://?@127.0.0.1/  https://:443/
        https://company.com:/  https://company.com:0/  https://company.com:0443/  https://company.com:+443/
        https://company.com:-1/  https://company.com:４４３/  https://company.com:٤٤٣/  https://company.com:443:443/
        https://company.com:443a/  https://company.com:0x1bb/  https://company.com:100443/  https://company.com:80:443/
    """.split(),
    "uses port": """
        https://company.com:22/  https://company.com:25/  https://company.com:80/  https://company.com:6379/
        https://company.com:65535/  https://company.com:65536/  https://company.com:66979/  https://company.com:44/
        https://company.com:4430/  https://[2606:4700::1]:80/  https://1.1.1.1:80/
    """.split(),
    CHARACTER: [
        *(" https://company.com/", "https://company.com/ ", "https://company.com/a b", "\thttps://company.com/"),
        *(
            "ht\ntps://company.com/",
            "https://company.com/\r\nHost: localhost",
            "https://company.com/\x00",
            "https:\\\\a.com",
        ),
        *(
            "https://company.com/\\..\\x",
            "https:/\\company.com",
            "https://company.com/\x1f",
            "https://company.com/\u202e",
        ),
        *("https://company.com/\ud800", "https://company.com/\x85"),
    ],
    "beyond ASCII": [
        "https://company.com/ü",
        "https://company.com/?q=ü",
        "https://company.com?ü",
        "https://company.com/⁄",
    ],
    "a fragment": ["https://company.com/#", "https://company.com/#x", "https://company.com#x"],
    "has more than 2048 bytes": ["https://company.com/" + "x" * 2029, "https://" + "ü" * 1024, "x" * 1_000_000],
}

PUBLIC: Final = {
    "https://company.com": ("company.com", 443, "/", "company.com"),
    "https://company.com/": ("company.com", 443, "/", "company.com"),
    "HTTPS://Hooks.Company.COM/In?a=1&b=%20": (
        "hooks.company.com",
        443,
        "/In?a=1&b=%20",
        "hooks.company.com",
    ),
    "https://company.com:443/x": ("company.com", 443, "/x", "company.com"),
    "https://company.com:8443/x": ("company.com", 8443, "/x", "company.com:8443"),
    "https://company.com?a=@b:c/d": ("company.com", 443, "/?a=@b:c/d", "company.com"),
    "https://company.com//a/../b;c=d?e[f]={g}|h": ("company.com", 443, "//a/../b;c=d?e[f]={g}|h", "company.com"),
    "https://company.com/@127.0.0.1/http://127.0.0.1": (
        "company.com",
        443,
        "/@127.0.0.1/http://127.0.0.1",
        "company.com",
    ),
    "https://a_b.company.com/": ("a_b.company.com", 443, "/", "a_b.company.com"),
    "https://1.2.company.com/": ("1.2.company.com", 443, "/", "1.2.company.com"),
    "https://127.0.0.1.company.com/": ("127.0.0.1.company.com", 443, "/", "127.0.0.1.company.com"),
    "https://hooks.company1/": ("hooks.company1", 443, "/", "hooks.company1"),
    "https://xn--bcher-kva.de/": ("xn--bcher-kva.de", 443, "/", "xn--bcher-kva.de"),
    "https://bücher.de/": ("xn--bcher-kva.de", 443, "/", "xn--bcher-kva.de"),
    "https://BÜCHER.de:8443/": ("xn--bcher-kva.de", 8443, "/", "xn--bcher-kva.de:8443"),
    "https://faß.de/": ("xn--fa-hia.de", 443, "/", "xn--fa-hia.de"),
    "https://1.1.1.1/": ("1.1.1.1", 443, "/", "1.1.1.1"),
    "https://[2606:4700::1111]:8443/x": ("2606:4700::1111", 8443, "/x", "[2606:4700::1111]:8443"),
    "https://[2606:4700:0:0::0.0.17.17]/": ("2606:4700::1111", 443, "/", "[2606:4700::1111]"),
    "https://company.com/" + "x" * 2028: ("company.com", 443, "/" + "x" * 2028, "company.com"),
    "https://" + "a" * 63 + ".com/": ("a" * 63 + ".com", 443, "/", "a" * 63 + ".com"),
}
"""To host, port, path and the Host header."""
