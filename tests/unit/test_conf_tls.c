/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * engine/conf, what is about TLS: certificates by name, STARTTLS of listeners, TLS of upstreams;
 * and whether the file has changed since. No file that a configuration names is opened here.
 */
#include "engine/conf/conf.h"
#include "engine/conf/conf_int.h"

#include <criterion/criterion.h>
#include <unistd.h>

#define CERTS "certificates: {public: {chain: /c.pem, key: /c.key}}\n"
#define PLAIN                                                      \
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta}}\n" \
	"upstreams: {mta: {servers: 10.0.0.10:25}}\n"
/* A key under test: at the top in line 1, of the listener and of the upstream in line 6. */
#define TOP(x) x "\n" PLAIN
#define IN(x)                                                                               \
	CERTS "listeners:\n  in:\n    bind: 127.0.0.1:2525\n    upstream: mta\n    " x "\n" \
	      "upstreams: {mta: {servers: 10.0.0.10:25}}\n"
#define UP(x)                                                                                \
	CERTS "listeners: {in: {bind: 127.0.0.1:2525, upstream: mta}}\nupstreams:\n  mta:\n" \
	      "    servers: 10.0.0.10:25\n    " x "\n"
#define OFFER(x) IN("starttls: {mode: offer, certificates: public, " x "}") /* column 51 */
#define VERIFY(x) UP("tls: {mode: verify, " x "}")			    /* column 25 */
#define REQUIRE(x) UP("tls: {mode: require, " x "}")			    /* column 26 */
#define PIN_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define PIN_B                                              \
	"FF:01:23:45:67:89:AB:CD:EF:fe:dc:ba:98:76:54:32:" \
	"10:00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e"
#define PAIR "{chain: /c, key: /k}, "
#define PAIRS4 PAIR PAIR PAIR PAIR

struct outcome {
	struct conf *c;
	char *said;
	size_t said_len;
};

static struct outcome load(const char *text)
{
	struct outcome o = {0};
	FILE *err = open_memstream(&o.said, &o.said_len);

	o.c = conf_load_text("t.yaml", text, strlen(text), err);
	fclose(err);
	return o;
}

static void done(struct outcome *o)
{
	conf_free(o->c);
	free(o->said);
}

static struct conf *load_good(const char *text)
{
	struct outcome o = load(text);

	cr_assert_not_null(o.c, "refused:\n%s\n%s", text, o.said);
	cr_assert_str_eq(o.said, "", "accepted, but:\n%s", o.said);
	free(o.said);
	return o.c;
}

static char *dumped(const struct conf *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	conf_dump(c, out);
	fclose(out);
	return text;
}

/* ---- what is refused: one mistake each, its place and its words ---- */

struct bad {
	const char *text;
	const char *place;
	const char *words;
};

static const struct bad bads[] = {
	/* certificates */
	{TOP("certificates: []"), "1:15",
		"`certificates` takes a mapping, each entry under a name of its own"},
	{TOP("certificates: {a b: {chain: /c, key: /k}}"), "1:16", "a name cannot be `a b`"},
	{TOP("certificates: {a: {key: /k}}"), "1:19", "`a` has no `chain`"},
	{TOP("certificates: {a: {chain: /c}}"), "1:19", "`a` has no `key`"},
	{TOP("certificates: {a: /c}"), "1:19", "is expected here, not a single value"},
	{TOP("certificates: {a: []}"), "1:19",
		"`a` is empty: at least one {chain: FILE, key: FILE} is needed"},
	{TOP("certificates: {a: [/c]}"), "1:20", "is expected here, not a single value"},
	{TOP("certificates: {a: [[]]}"), "1:20", "is expected here, not a list"},
	{TOP("certificates: {a: [" PAIR "{chain: /d}]}"), "1:42", "`a` has no `key`"},
	{TOP("certificates: {a: [" PAIRS4 PAIRS4 PAIRS4 PAIRS4 PAIR "]}"), "1:19",
		"`a` has 17 certificates, 16 at most are allowed"},
	{TOP("certificates: {a: {chain: c.pem, key: /k}}"), "1:27",
		"`chain` is a relative path (`c.pem`), which would depend on where ringpost is "
		"started: write an absolute one, such as `/etc/ringpost/mx.pem`"},
	{TOP("certificates: {a: {chain: /c, key: [/k]}}"), "1:36",
		"`key` takes one value, not a list"},
	{TOP("certificates: {a: {chain: /c, key: /k, kay: 1}}"), "1:40",
		"unknown key `kay`, did you mean `key`?"},
	{TOP("certificates: {a: {chain: /c, key: /k, name: x}}"), "1:40",
		"it belongs to upstreams.<name>.tls; here there are chain, key"},
	{TOP("certificate: {}"), "1:1", "did you mean `certificates`?"},

	/* what all TLS has in common */
	{TOP("tls: on"), "1:6", "a mapping (`key: value`) is expected here"},
	{TOP("tls: {ticket-keys: x}"), "1:20", "`ticket-keys` is a relative path"},
	{TOP("tls: {ticket-rotate: 49h}"), "1:22", "must be between 0 and 2d, not 49h"},
	{TOP("tls: {ticket-rotate: 12}"), "1:22", "`ticket-rotate` needs a unit"},
	{TOP("tls: {expiry-warning: 366d}"), "1:23", "must be between 0 and 365d, not 366d"},
	{TOP("tls: {key-log: log}"), "1:16", "`key-log` is a relative path"},
	{TOP("tls: {ticket_keys: /x}"), "1:7", "did you mean `ticket-keys`?"},
	{TOP("tls: {min-version: 1.2}"), "1:7",
		"it belongs to listeners.<name>.starttls or upstreams.<name>.tls; here there are "
		"ticket-keys, ticket-rotate, key-log, expiry-warning"},
	{TOP("tls: {ticket-keys: /x, ticket-rotate: 0}"), "1:20",
		"`ticket-keys` is of no use, as `ticket-rotate` is 0"},

	/* listeners */
	{IN("starttls: offer"), "6:15",
		"`offer` needs `certificates`: write `starttls: {mode: offer, certificates: "
		"NAME}`"},
	{IN("starttls: ofer"), "6:15",
		"did you mean `offer`? (it can be none, passthrough, offer, require, implicit)"},
	{IN("starttls: {mode: require}"), "6:22", "`require` needs `certificates`"},
	{IN("starttls: {mode: implicit}"), "6:22", "`implicit` needs `certificates`"},
	{IN("starttls: {certificates: public}"), "6:30",
		"`certificates` is of no use, as `mode` is none: it can be offer, require or "
		"implicit"},
	{IN("starttls: {mode: passthrough, ciphers: A}"), "6:44",
		"`ciphers` is of no use, as `mode` is passthrough"},
	{IN("starttls: {mode: none, groups: A}"), "6:36", "`groups` is of no use"},
	{IN("starttls: {mode: none, min-version: 1.3}"), "6:41", "`min-version` is of no use"},
	{IN("starttls: {mode: none, client-certificates: optional}"), "6:49",
		"`client-certificates` is of no use"},
	{IN("starttls: {mode: none, client-ca: /ca}"), "6:39", "`client-ca` is of no use"},
	{IN("starttls: {mode: implicit, certificates: pubic}"), "6:46",
		"certificate `pubic` is not defined, did you mean `public`?"},
	{IN("starttls: {mode: offer, certificates: [public]}"), "6:43",
		"`certificates` takes one value, not a list"},
	{"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta, starttls: {mode: offer, "
	 "certificates: x}}}\nupstreams: {mta: {servers: 10.0.0.10:25}}\n",
		"1:93", "certificate `x` is not defined: `certificates` has no such name"},
	{OFFER("min-version: 1.1"), "6:64", "(it can be 1.2, 1.3)"},
	{OFFER("min-version: 1.0"), "6:64", "(it can be 1.2, 1.3)"},
	{OFFER("ciphers: \"A::B\""), "6:60",
		"`ciphers` cannot be `A::B`: names with colons between them are meant, such as "
		"`TLS13-"},
	{OFFER("ciphers: \"A:\""), "6:60", "`ciphers` cannot be `A:`"},
	{OFFER("ciphers: \":A\""), "6:60", "`ciphers` cannot be `:A`"},
	{OFFER("ciphers: \"HIGH:!aNULL\""), "6:60", "`ciphers` cannot be `HIGH:!aNULL`"},
	{OFFER("ciphers: [A, B]"), "6:60", "`ciphers` takes one value, not a list"},
	{OFFER("groups: \"X25519,P-256\""), "6:59", "are meant, such as `X25519:P-256`"},
	{OFFER("client-certificates: optional"), "6:72",
		"`client-certificates: optional` needs `client-ca`"},
	{OFFER("client-certificates: require"), "6:72",
		"`client-certificates: require` needs `client-ca`"},
	{OFFER("client-certificates: mandatory"), "6:72", "it can be none, optional, require"},
	{OFFER("client-certificates: require, client-ca: ca.pem"), "6:92",
		"`client-ca` is a relative path"},
	{OFFER("client-ca: /ca.pem"), "6:62",
		"`client-ca` is of no use: no client is asked for a certificate"},
	{OFFER("client-certificates: none, client-ca: /ca.pem"), "6:89",
		"`client-ca` is of no use"},
	{OFFER("certificate: x"), "6:51", "did you mean `certificates`?"},
	{OFFER("name: x"), "6:51", "it belongs to upstreams.<name>.tls; here there are mode, "},
	{IN("auth-in-clear: maybe"), "6:20", "it can be off, local, on"},
	{IN("auth-in-clear: on"), "6:20",
		"`auth-in-clear` is of no use: with `starttls: none` AUTH is the server's affair. "
		"It is for offer and require"},
	{IN("starttls: passthrough\n    auth-in-clear: off"), "7:20",
		"with `starttls: passthrough` AUTH is"},
	{IN("starttls: {mode: implicit, certificates: public}\n    auth-in-clear: on"), "7:20",
		"with `starttls: implicit` nothing is ever in clear"},
	/* What the mode would have been, nobody knows. */
	{IN("starttls: {mode: onn}\n    auth-in-clear: on"), "6:22", "`mode` cannot be `onn`"},
	{IN("starttls: onn\n    auth-in-clear: on"), "6:15", "`mode` cannot be `onn`"},
	{IN("starttls: {mode: ofer, certificates: p, ciphers: \"\"}"), "6:22", "`offer`?"},
	{IN("timeouts: {tls: 0}"), "6:21", "must be between 1s and 1h, not 0"},
	{IN("tls: {mode: offer}"), "6:5", "unknown key `tls`: it belongs to the top of the file"},

	/* upstreams */
	{UP("tls: maybe"), "6:10", "it can be off, opportunistic, require, verify"},
	{UP("tls: verfy"), "6:10", "did you mean `verify`?"},
	{UP("tls: [require]"), "6:10", "a mapping (`key: value`) is expected here, not a list"},
	{UP("tls: verify"), "6:10",
		"`verify` needs `name`, the one that the servers' certificate has, or `pins`"},
	{UP("tls: {mode: verify}"), "6:17", "`verify` needs `name`"},
	{VERIFY("pins: []"), "6:17", "`verify` needs `name`"},
	{VERIFY("ca: /x"), "6:17", "`verify` needs `name`"},
	{VERIFY("pins: abc"), "6:31",
		"`abc` is no SHA-256 sum: write 64 hexadecimal digits, with or without colons"},
	{VERIFY("pins: 0" PIN_A), "6:31", "is no SHA-256 sum"},
	{VERIFY("pins: g0112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"), "6:31",
		"is no SHA-256 sum"},
	{VERIFY("pins: \"ff-01-23-45-67-89-ab-cd-ef-fe-dc-ba-98-76-54-32-10-00-01-02-03-04-05-06-"
		"07-08-09-0a-0b-0c-0d-0e\""),
		"6:31", "is no SHA-256 sum"},
	{VERIFY("pins: [" PIN_A ", " PIN_A "]"), "6:98", "is in the list twice"},
	{VERIFY("pins: {a: b}"), "6:31", "takes a value or a list of values"},
	{VERIFY("name: 10.0.0.1"), "6:31", "`10.0.0.1` is an address: `name` is a name that"},
	{VERIFY("name: gr\xc3\xbc\xc3\x9f.example"), "6:31", "`name` must be ASCII"},
	{VERIFY("name: \"a b\""), "6:31", "`a b` is no host name: write `mx.example.org`"},
	{VERIFY("name: .example.org"), "6:31", "is no host name"},
	{VERIFY("name: example.org."), "6:31", "is no host name"},
	{VERIFY("name: \"*.example.org\""), "6:31", "is no host name"},
	{VERIFY("name: \"[192.0.2.1]\""), "6:31", "is no host name"},
	{VERIFY("name: [a]"), "6:31", "`name` takes one value, not a list"},
	{REQUIRE("pins: " PIN_A), "6:32", "`pins` are of no use, as `mode` is require"},
	{REQUIRE("certificate: nobody"), "6:39", "certificate `nobody` is not defined"},
	{REQUIRE("certificates: public"), "6:26", "did you mean `certificate`?"},
	{REQUIRE("ca: ca.pem"), "6:30", "`ca` is a relative path"},
	{REQUIRE("implicit: perhaps"), "6:36", "write `on` or `off`"},
	{REQUIRE("min-version: 1.4"), "6:39", "(it can be 1.2, 1.3)"},
	{REQUIRE("ciphers: \"A B\""), "6:35", "`ciphers` cannot be `A B`"},
	{REQUIRE("groups: \"\""), "6:34", "`groups` has no value"},
	{UP("tls: {mode: opportunistic, implicit: on}"), "6:42",
		"`implicit` cannot be opportunistic"},
	{UP("tls: {ca: /x}"), "6:15",
		"`ca` is of no use, as `mode` is off: it can be opportunistic, require or verify"},
	{UP("tls: {implicit: on}"), "6:21", "`implicit` is of no use"},
	{UP("tls: {name: mx.example}"), "6:17", "`name` is of no use"},
	{UP("tls: {pins: " PIN_A "}"), "6:17", "`pins` is of no use"},
	{UP("tls: {certificate: public}"), "6:24", "`certificate` is of no use"},
	{UP("tls: {mode: off, min-version: 1.3}"), "6:35", "`min-version` is of no use"},
	{UP("auth-in-clear: sometimes"), "6:20", "it can be off, local, on"},
	{UP("timeouts: {tls: 2h}"), "6:21", "must be between 1s and 1h, not 2h"},
};

static void check_bad(const struct bad *b)
{
	struct outcome o = load(b->text);
	char head[64];

	cr_expect_null(o.c, "accepted:\n%s", b->text);
	snprintf(head, sizeof(head), "t.yaml:%s: error: ", b->place);
	cr_expect(strncmp(o.said, head, strlen(head)) == 0, "not at %s\n%s%s", b->place, b->text,
		o.said);
	cr_expect_not_null(
		strstr(o.said, b->words), "no \"%s\" for\n%s%s", b->words, b->text, o.said);
	cr_expect_not_null(strstr(o.said, "\n1 error\n"), "not one error:\n%s%s", b->text, o.said);
	done(&o);
}

Test(conf_tls, refuses_each_mistake_at_its_place)
{
	for (size_t i = 0; i < ARRAY_LEN(bads); i++)
		check_bad(&bads[i]);
}

Test(conf_tls, reports_all_errors_in_one_run)
{
	static const char text[] =
		"certificates: {a: {chain: c, key: k}, b: []}\n" /* 1: three */
		"tls: {ticket-keys: /t, ticket-rotate: 0}\n"	 /* 2 */
		"listeners:\n"
		"  one: {bind: 127.0.0.1:1, upstream: u, auth-in-clear: off,\n" /* 4 */
		"    starttls: {ciphers: A, client-ca: /x}}\n"			/* 5: two */
		"  two: {bind: 127.0.0.1:2, upstream: u,\n"
		"    starttls: {mode: offer, groups: \",\", client-certificates: "
		"optional}}\n" /* three
				*/
		"upstreams:\n"
		"  u: {servers: 10.0.0.1:25, tls: {name: x, implicit: on}}\n" /* 9: two */
		"  v: {servers: 10.0.0.1:25, tls: {mode: verify, pins: [a, b], "
		"certificate: c}}\n"
		"  w: {servers: 10.0.0.1:25, tls: verify}\n"; /* 11 */
	static const char *const places[] = {"1:27", "1:35", "1:42", "2:20", "4:56", "5:25", "5:39",
		"7:22", "7:37", "7:63", "9:41", "9:54", "10:56", "10:59", "10:76", "11:34"};
	struct outcome o = load(text);
	const char *p = o.said;

	cr_assert_null(o.c);
	cr_assert_not_null(strstr(o.said, "\n16 errors\n"), "%s", o.said);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		char head[64];

		snprintf(head, sizeof(head), "t.yaml:%s: error: ", places[i]);
		p = strstr(p, "t.yaml:");
		cr_assert_not_null(p);
		cr_assert(strncmp(p, head, strlen(head)) == 0, "message %zu:\n%s", i, p);
		p++;
	}
	done(&o);
}

/* ---- what is accepted ---- */

static const char rich[] =
	"certificates:\n"								 /* 1 */
	"  both:\n"									 /* 2 */
	"    - {chain: /ec.pem, key: /ec.key}\n"					 /* 3 */
	"    - chain: \"/r \\\"s\\\" $${a}.pem\"\n"					 /* 4 */
	"      key: /rs.key\n"								 /* 5 */
	"  one: {chain: /one.pem, key: /one.key}\n"					 /* 6 */
	"tls: {ticket-keys: /t, ticket-rotate: 90s, key-log: /k, expiry-warning: 30d}\n" /* 7 */
	"listeners:\n"									 /* 8 */
	"  a:\n"									 /* 9 */
	"    bind: 127.0.0.1:1\n"							 /* 10 */
	"    upstream: x\n"								 /* 11 */
	"    starttls: {mode: offer, certificates: both, min-version: 1.3, ciphers: \"A-B:c_2\",\n"
	"      groups: X25519, client-certificates: require, client-ca: /ca.pem}\n"
	"    auth-in-clear: on\n"
	"    timeouts: {tls: 5s}\n"
	"  b: {bind: 127.0.0.1:2, upstream: y, starttls: {mode: require, certificates: one},\n"
	"    auth-in-clear: off}\n"
	"  c: {bind: 127.0.0.1:3, upstream: z, starttls: {mode: implicit, certificates: one,\n"
	"    client-certificates: optional, client-ca: /ca.pem}}\n"
	"  d: {bind: 127.0.0.1:4, upstream: z, starttls: passthrough}\n"
	"upstreams:\n"
	"  x: {servers: 10.0.0.1:25, tls: {mode: verify, name: MX.Example.org, ca: /cas,\n"
	"    certificate: both, min-version: 1.3, ciphers: A, groups: B, implicit: yes},\n"
	"    auth-in-clear: on, timeouts: {tls: 1h}}\n"
	"  y: {servers: 10.0.0.1:465, tls: {mode: verify, pins: [" PIN_A ",\n"
	"    \"" PIN_B "\"], name: mx}, auth-in-clear: off}\n"
	"  z: {servers: 10.0.0.1:25, tls: opportunistic}\n";

static void check_rich_listeners(const struct conf *c)
{
	const struct conf_listener *a = &c->listeners[0], *b = &c->listeners[1],
				   *i = &c->listeners[2], *d = &c->listeners[3];

	cr_assert(a->starttls == STARTTLS_OFFER && b->starttls == STARTTLS_REQUIRE);
	cr_assert(i->starttls == STARTTLS_IMPLICIT && d->starttls == STARTTLS_PASSTHROUGH);
	cr_assert(a->certificates == &c->certificates[0] && a->tls.pair_count == 2);
	cr_assert_eq(a->tls.pairs, c->certificates[0].pairs);
	cr_assert(b->certificates == &c->certificates[1] && b->tls.pair_count == 1);
	cr_assert(d->certificates == NULL && d->tls.pair_count == 0);
	cr_assert(a->tls.min == TLS_1_3 && b->tls.min == TLS_1_2);
	cr_assert_str_eq(a->tls.ciphers, "A-B:c_2");
	cr_assert_str_eq(a->tls.groups, "X25519");
	cr_assert(b->tls.ciphers == NULL && b->tls.groups == NULL && b->tls.client_ca == NULL);
	cr_assert(a->tls.client_cert == TLS_CLIENT_REQUIRED);
	cr_assert(b->tls.client_cert == TLS_CLIENT_NONE);
	cr_assert(i->tls.client_cert == TLS_CLIENT_OPTIONAL);
	cr_assert_str_eq(a->tls.client_ca, "/ca.pem");
	cr_assert(a->clear_auth == CLEAR_AUTH_ON && b->clear_auth == CLEAR_AUTH_OFF);
	cr_assert(i->clear_auth == CLEAR_AUTH_LOCAL && d->clear_auth == CLEAR_AUTH_LOCAL);
	cr_assert(a->timeouts.tls == 5000 && b->timeouts.tls == 30000);
}

static void check_rich_upstreams(const struct conf *c)
{
	static const uint8_t pin_a[] = {0x00, 0x11, 0x22}, pin_b[] = {0xff, 0x01, 0x23};
	const struct conf_upstream *x = &c->upstreams[0], *y = &c->upstreams[1],
				   *z = &c->upstreams[2];

	cr_assert(x->tls.mode == CONF_TLS_VERIFY && x->tls.policy.demand == TLS_DEMAND_VERIFY);
	cr_assert(y->tls.mode == CONF_TLS_VERIFY && y->tls.policy.demand == TLS_DEMAND_PIN);
	cr_assert(z->tls.mode == CONF_TLS_OPPORTUNISTIC && z->tls.policy.demand == TLS_DEMAND_NONE);
	cr_assert(x->tls.implicit && !y->tls.implicit && !z->tls.implicit);
	cr_assert_str_eq(x->tls.name, "mx.example.org");
	cr_assert_str_eq(y->tls.name, "mx");
	cr_assert_null(z->tls.name);
	cr_assert_str_eq(x->tls.policy.ca, "/cas");
	cr_assert(y->tls.policy.ca == NULL && x->tls.policy.min == TLS_1_3);
	cr_assert_str_eq(x->tls.policy.ciphers, "A");
	cr_assert_str_eq(x->tls.policy.groups, "B");
	cr_assert_str_eq(x->tls.policy.own.chain, "/ec.pem");
	cr_assert_str_eq(x->tls.policy.own.key, "/ec.key");
	cr_assert(y->tls.policy.own.chain == NULL && y->tls.certificate == NULL);
	cr_assert(x->tls.policy.pin_count == 0 && y->tls.policy.pin_count == 2);
	cr_assert_eq(memcmp(y->tls.policy.pins[0], pin_a, sizeof(pin_a)), 0);
	cr_assert_eq(memcmp(y->tls.policy.pins[1], pin_b, sizeof(pin_b)), 0);
	cr_assert(y->tls.policy.pins[0][31] == 0xff && y->tls.policy.pins[1][31] == 0x0e);
	cr_assert(x->tls.clear_auth == CLEAR_AUTH_ON && y->tls.clear_auth == CLEAR_AUTH_OFF);
	cr_assert_eq(z->tls.clear_auth, CLEAR_AUTH_LOCAL);
	cr_assert(x->timeouts.tls == 3600000 && z->timeouts.tls == 30000);
}

static void check_rich(const struct conf *c)
{
	const struct conf_certificates *both = &c->certificates[0];

	cr_assert(c->certificate_count == 2 && both->pair_count == 2);
	cr_assert_str_eq(both->name, "both");
	cr_assert_str_eq(both->pairs[0].chain, "/ec.pem");
	cr_assert_str_eq(both->pairs[0].key, "/ec.key");
	cr_assert_str_eq(both->pairs[1].chain, "/r \"s\" ${a}.pem");
	cr_assert_str_eq(both->pairs[1].key, "/rs.key");
	cr_assert_str_eq(c->certificates[1].name, "one");
	cr_assert_str_eq(c->tls.ticket_keys, "/t");
	cr_assert_str_eq(c->tls.key_log, "/k");
	cr_assert(c->tls.ticket_rotate_ms == 90000);
	cr_assert(c->tls.expiry_warning_ms == 30ull * 86400000);
	check_rich_listeners(c);
	check_rich_upstreams(c);
}

Test(conf_tls, values_arrive_and_survive_a_dump)
{
	struct conf *c = load_good(rich), *again;
	char *one = dumped(c), *two;

	check_rich(c);
	again = load_good(one);
	check_rich(again);
	two = dumped(again);
	cr_assert_str_eq(one, two);
	conf_free(c);
	conf_free(again);
	free(one);
	free(two);
}

Test(conf_tls, everything_has_its_place)
{
	struct conf *c = load_good(rich);

	cr_assert_str_eq(c->certificates[0].wheres[0], "t.yaml:3:7");
	cr_assert_str_eq(c->certificates[0].wheres[1], "t.yaml:4:7");
	cr_assert_str_eq(c->certificates[1].wheres[0], "t.yaml:6:8");
	cr_assert_str_eq(c->tls.where, "t.yaml:7:1");
	cr_assert_str_eq(c->listeners[0].where, "t.yaml:9:3");
	cr_assert_str_eq(c->upstreams[2].where, "t.yaml:27:3");
	conf_free(c);
}

static const char *const sane[] = {
	PLAIN,
	TOP("tls:\ncertificates:"),
	TOP("tls: {}\ncertificates: {}"),
	TOP("tls: {ticket-rotate: 0, expiry-warning: 0}"),
	TOP("tls: {ticket-rotate: 2d, expiry-warning: 365d}"),
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta, starttls: {mode: none, min-version: "
	"1.2,\n  client-certificates: none}, auth-in-clear: local}}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25, tls: {mode: off, pins: [], implicit: off}}}\n",
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta, starttls: , auth-in-clear: local}}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25, tls: off, auth-in-clear: off}}\n",
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta}}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25, tls: {mode: require, implicit: on}}}\n",
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta}}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25, tls: {mode: verify, pins: " PIN_A "}}}\n",
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta}}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25, tls: }}\n",
	"listeners: {in: {bind: 127.0.0.1:2525, upstream: mta, starttls: &t {mode: offer, "
	"certificates: a}},\n  two: {bind: 127.0.0.1:2526, upstream: mta, starttls: *t}}\n"
	"upstreams: {mta: {servers: 10.0.0.10:25}}\ncertificates: {a: [" PAIRS4 PAIRS4 PAIRS4 PAIRS4
	"]}\n",
};

Test(conf_tls, accepts_sane_files_and_dumps_what_loads_again)
{
	for (size_t i = 0; i < ARRAY_LEN(sane); i++) {
		struct conf *c = load_good(sane[i]), *again;
		char *one = dumped(c), *two;

		again = load_good(one);
		two = dumped(again);
		cr_assert_str_eq(one, two);
		conf_free(c);
		conf_free(again);
		free(one);
		free(two);
	}
}

Test(conf_tls, defaults)
{
	struct conf *c = load_good(PLAIN);
	const struct conf_listener *l = &c->listeners[0];
	const struct conf_upstream *u = &c->upstreams[0];

	cr_assert(c->certificate_count == 0 && c->tls.ticket_keys == NULL);
	cr_assert(c->tls.ticket_rotate_ms == 12 * 3600000 && c->tls.key_log == NULL);
	cr_assert(c->tls.expiry_warning_ms == 14 * 86400000ull);
	cr_assert_str_eq(c->tls.where, "t.yaml");
	cr_assert(l->starttls == STARTTLS_NONE && l->clear_auth == CLEAR_AUTH_LOCAL);
	cr_assert(l->certificates == NULL && l->tls.min == TLS_1_2 && l->tls.pair_count == 0);
	cr_assert(l->timeouts.tls == 30000 && u->timeouts.tls == 30000);
	cr_assert(u->tls.mode == CONF_TLS_OFF && !u->tls.implicit && u->tls.name == NULL);
	cr_assert(u->tls.clear_auth == CLEAR_AUTH_LOCAL && u->tls.policy.min == TLS_1_2);
	cr_assert(u->tls.policy.demand == TLS_DEMAND_NONE && u->tls.policy.pin_count == 0);
	conf_free(c);
}

Test(conf_tls, certificates_that_nobody_uses_are_told)
{
	struct outcome o = load(TOP("certificates: {a: {chain: /c, key: /k}}"));

	cr_assert_not_null(o.c, "%s", o.said);
	cr_assert_eq(strncmp(o.said, "t.yaml:1:16: warning: ", 22), 0, "%s", o.said);
	cr_assert_not_null(strstr(o.said, "no listener and no upstream uses certificates `a`"));
	cr_assert_not_null(strstr(o.said, "\n1 warning\n"), "%s", o.said);
	done(&o);
}

/* ---- the file afterwards ---- */

Test(conf_tls, knows_whether_its_file_has_changed)
{
	char path[] = "/tmp/test_conf_tls_XXXXXX";
	int fd = mkstemp(path);
	struct conf *c;

	cr_assert_eq(write(fd, PLAIN, strlen(PLAIN)), (ssize_t)strlen(PLAIN));
	c = conf_load(path, stderr);
	cr_assert_not_null(c);
	cr_assert_str_eq(c->path, path);
	cr_assert_not(conf_changed(c));
	cr_assert_eq(write(fd, "\n", 1), 1);
	cr_assert(conf_changed(c));
	cr_assert_eq(ftruncate(fd, (off_t)strlen(PLAIN)), 0);
	cr_assert_not(conf_changed(c));
	cr_assert_eq(pwrite(fd, "L", 1, 0), 1);
	cr_assert(conf_changed(c));
	unlink(path);
	cr_assert_not(conf_changed(c), "nobody can say");
	close(fd);
	conf_free(c);
	c = load_good(PLAIN);
	cr_assert(c->path == NULL && !conf_changed(c));
	conf_free(c);
}
