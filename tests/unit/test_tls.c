/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * tls/tls.h on real streams: our server and our client with each other, and each with peers that
 * the test plays (wolfSSL on a plain descriptor, or octets made by hand). What stands between two
 * of ours is a socket pair, or a wire that the test cuts into pieces. Each test ends with nothing
 * left of connections, leases and descriptors.
 */
#include "tests/unit/bed.h"
#include "tests/unit/hellobed.h"
#include "tls/tls_int.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <wolfssl/wolfcrypt/memory.h>

#define CERTS "build/test-certs"
#define MIB (1u << 20)

static struct bed bed;
static struct tls_core core;
static struct tls_keys *keys;
static uint64_t seed = 0x9e3779b97f4a7c15u;
static struct tls_error err;

/* ---- the core ---- */

static void turn(void)
{
	ring_turn(bed.r, tls_core_waits(&core) ? 0 : ring_now_us(bed.r) + 1000);
	cr_assert(core.started <= TLS_STARTS_PER_TURN);
	tls_core_turn(&core);
	streams_flush(&bed.ss);
}

#define UNTIL(cond, each)                                                       \
	do {                                                                    \
		unsigned left_ = BED_TURNS_MAX;                                 \
		while (!(cond)) {                                               \
			each;                                                   \
			turn();                                                 \
			cr_assert(left_-- > 0, "stuck waiting for: %s", #cond); \
		}                                                               \
	} while (0)

static void open_all_for(uint32_t conns)
{
	struct ring_conf c = bed_conf();

	cr_assert_eq(system("sh tests/certs.sh " CERTS), 0);
	bed_open(&bed, &c, 16384, 8192);
	cr_assert(tls_library_init(&err), "%s", err.text);
	cr_assert(tls_core_init(&core, &bed.ss, conns));
}

static void open_all(void)
{
	open_all_for(256);
}

static void close_all(void)
{
	cr_assert_eq(core.conns.used, 0);
	tls_core_fini(&core);
	if (keys != NULL)
		tls_keys_free(keys);
	keys = NULL;
	tls_library_fini();
	bed_close(&bed);
}

/* ---- sites and policies ---- */

/* Paths that last as long as the test. */
static const char *path_of(const char *name, const char *suffix)
{
	static char paths[64][96];
	static unsigned next;
	char *p = paths[next++ % 64];

	(void)snprintf(p, sizeof(paths[0]), CERTS "/%s.%s", name, suffix);
	return p;
}

static struct tls_pair pair_of(const char *name)
{
	return (struct tls_pair){path_of(name, "pem"), path_of(name, "key")};
}

struct site_form {
	const char *pairs[4]; /* ends with NULL */
	enum tls_version min;
	const char *ciphers, *groups;
	enum tls_client_cert client_cert;
	struct tls_keys *keys;
	struct tls_keylog *log;
};

static struct tls_site *site_of(struct site_form f)
{
	struct tls_pair pairs[4];
	struct tls_site_conf c = {.pairs = pairs,
		.min = f.min,
		.ciphers = f.ciphers,
		.groups = f.groups,
		.client_cert = f.client_cert};
	struct tls_site *s;

	if (f.client_cert != TLS_CLIENT_NONE)
		c.client_ca = path_of("client-ca", "pem");
	while (f.pairs[c.pair_count] != NULL) {
		pairs[c.pair_count] = pair_of(f.pairs[c.pair_count]);
		c.pair_count++;
	}
	s = tls_site_new(&c, f.keys, f.log, &err);
	cr_assert(s != NULL, "%s: %s", err.file, err.text);
	return s;
}
#define SITE(...) site_of((struct site_form){.pairs = {__VA_ARGS__}})

static struct tls_policy *policy_of(struct tls_policy_conf c)
{
	struct tls_policy *p;

	if (c.ca == NULL)
		c.ca = path_of("ca", "pem");
	p = tls_policy_new(&c, NULL, &err);
	cr_assert(p != NULL, "%s: %s", err.file, err.text);
	return p;
}
#define POLICY(...) policy_of((struct tls_policy_conf){__VA_ARGS__})

/* ---- ends ---- */

/* One side: an owner of a stream with TLS. */
struct end {
	struct stream s;
	struct tls *t;
	struct pile in;
	unsigned opens, ends, breaks, drains, closes;
	enum ring_res end_res;
	struct end *to;		/* relay to it, with back-pressure */
	struct tls_facts facts; /* at on_open() */
	/* Called in each callback, with its name. May close, let go, ... */
	void (*hook)(struct end *e, const char *what);
	bool let_go; /* `t` is not ours any more */
};

static struct end *end_of(struct stream *s)
{
	return CONTAINER_OF(s, struct end, s);
}

static void tell(struct end *e, const char *what)
{
	cr_assert_not(bed.in_call, "%s from inside a call of the owner", what);
	cr_assert_eq(e->closes, 0, "%s behind on_closed", what);
	if (e->hook != NULL)
		e->hook(e, what);
}

static void end_open(struct stream *s)
{
	struct end *e = end_of(s);

	e->opens++;
	tls_facts(e->t, &e->facts);
	tell(e, "open");
}

static void end_bytes(struct stream *s, struct span data, int32_t buf)
{
	struct end *e = end_of(s);

	cr_assert(data.n > 0 && buf == -1);
	if (e->to != NULL) {
		stream_put(&e->to->s, data);
		if (stream_backlog(&e->to->s) > STREAM_HIGH_BYTES)
			stream_read(s, false);
	} else {
		pile_add(&e->in, data.p, data.n);
	}
	tell(e, "bytes");
}

static void end_end(struct stream *s, enum ring_res why)
{
	struct end *e = end_of(s);

	e->ends++;
	e->end_res = why;
	tell(e, "end");
}

static void end_drained(struct stream *s)
{
	struct end *e = end_of(s);

	e->drains++;
	tell(e, "drained");
}

static void end_broken(struct stream *s, enum ring_res why)
{
	struct end *e = end_of(s);

	e->breaks++;
	tell(e, "broken");
}

static void end_closed(struct stream *s)
{
	struct end *e = end_of(s);

	tell(e, "closed");
	e->closes++;
}

static const struct stream_events end_events = {
	.on_bytes = end_bytes,
	.on_end = end_end,
	.on_drained = end_drained,
	.on_broken = end_broken,
	.on_open = end_open,
	.on_closed = end_closed,
};

static void let_go(struct end *e)
{
	if (!e->let_go)
		tls_release(e->t);
	e->let_go = true;
}

static void end_begin(struct end *e, int fd, struct tls *t)
{
	pile_free(&e->in);
	e->opens = e->ends = e->breaks = e->drains = e->closes = 0;
	e->end_res = RING_OK;
	e->let_go = false;
	e->t = t;
	cr_assert(t != NULL);
	stream_adopt(&e->s, &bed.ss, &end_events, (struct ring_fd){fd});
	stream_set_filter(&e->s, tls_filter(t));
	stream_read(&e->s, true);
}

static void end_close(struct end *e)
{
	BED_CALL(&bed, stream_close(&e->s));
	UNTIL(e->closes == 1, (void)0);
	let_go(e);
	pile_free(&e->in);
	e->hook = NULL;
	e->to = NULL;
}

static bool settled(const struct end *e)
{
	return e->opens > 0 || e->ends > 0 || e->closes > 0;
}

/* ---- our server and our client ---- */

static struct end a, b; /* the server, the client */

static void begin_pair(struct tls_site *s, struct tls_policy *p, const char *name, uint64_t key)
{
	int fd[2];

	unix_pair(fd, 0);
	end_begin(&a, fd[0], tls_accept(&core, s));
	end_begin(&b, fd[1], tls_connect(&core, p, name, key));
	BED_CALL(&bed, tls_start(b.t));
}

/* Until both know how it ended: a client of 1.3 is done before its certificate is looked at. */
static void meet(struct tls_site *s, struct tls_policy *p, const char *name, uint64_t key)
{
	begin_pair(s, p, name, key);
	UNTIL(settled(&a) && settled(&b), (void)0);
	if (a.opens && b.opens) {
		stream_put(&a.s, SPAN_LIT("220 hello\r\n"));
		stream_put(&b.s, SPAN_LIT("EHLO you\r\n"));
		UNTIL(b.ends || b.in.n == 11, (void)0);
		UNTIL(a.ends || a.in.n == 10, (void)0);
	}
}

static void part(void)
{
	end_close(&a);
	end_close(&b);
}

static void assert_met(void)
{
	cr_assert(a.opens == 1 && b.opens == 1, "server %s, client %s", tls_why_word(tls_why(a.t)),
		tls_why_word(tls_why(b.t)));
	cr_assert(a.ends == 0 && b.ends == 0);
	cr_assert(a.in.n == 10 && memcmp(a.in.p, "EHLO you\r\n", 10) == 0);
	cr_assert(b.in.n == 11 && memcmp(b.in.p, "220 hello\r\n", 11) == 0);
}

static void assert_failed(const struct end *e, enum tls_why why)
{
	cr_assert_eq(e->end_res, RING_PROTO);
	cr_assert_eq(tls_why(e->t), why, "%s instead of %s", tls_why_word(tls_why(e->t)),
		tls_why_word(why));
}

#define TLS12_ECDSA "ECDHE-ECDSA-AES128-GCM-SHA256"
#define TLS12_RSA "ECDHE-RSA-AES256-GCM-SHA384"
#define TLS13_ONLY "TLS13-AES128-GCM-SHA256"

Test(tls, versions_and_kinds_of_keys)
{
	static const struct {
		const char *pair, *ciphers, *version, *cipher;
		uint32_t bits;
	} cases[] = {
		{"ecdsa", NULL, "TLSv1.3", "TLS_AES_128_GCM_SHA256", 128},
		{"rsa", "TLS13-CHACHA20-POLY1305-SHA256", "TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256",
			256},
		{"ecdsa", TLS12_ECDSA, "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 128},
		{"rsa", TLS12_RSA, "TLSv1.2", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 256},
	};

	open_all();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct tls_site *s = SITE(cases[i].pair);
		struct tls_policy *p =
			POLICY(.demand = TLS_DEMAND_VERIFY, .ciphers = cases[i].ciphers);

		meet(s, p, "mx.example.org", 0);
		assert_met();
		for (unsigned k = 0; k < 2; k++) {
			const struct tls_facts *f = k ? &b.facts : &a.facts;

			cr_assert_str_eq(f->version, cases[i].version);
			cr_assert_str_eq(f->cipher, cases[i].cipher);
			cr_assert_eq(f->bits, cases[i].bits);
			cr_assert_str_eq(f->group, "X25519");
			cr_assert_not(f->resumed);
		}
		cr_assert_str_eq(a.facts.sni, "mx.example.org");
		cr_assert(memmem(core.plain, 64, "220 hello", 9) == NULL &&
				  memmem(core.plain, 64, "EHLO you", 8) == NULL,
			"what was delivered stays in memory");
		cr_assert_not(a.facts.certified);
		cr_assert(a.facts.sha256 == NULL);
		cr_assert(b.facts.certified && b.facts.verified);
		cr_assert_eq(b.facts.doubt, TLS_WHY_NONE);
		cr_assert_str_eq(b.facts.subject, "mx.example.org");
		cr_assert(b.facts.sha256 != NULL);
		tls_site_unref(s);
		tls_policy_unref(p);
		part();
	}
	close_all();
}

Test(tls, groups)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = SITE("ecdsa");
	p = POLICY(.groups = "P-384");
	meet(s, p, NULL, 0);
	assert_met();
	cr_assert_str_eq(a.facts.group, "P-384");
	cr_assert_str_eq(b.facts.group, "P-384");
	part();
	tls_site_unref(s);
	/* Nothing in common. */
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .groups = "X25519"});
	meet(s, p, NULL, 0);
	cr_assert_eq(tls_why(a.t), TLS_WHY_CIPHER, "%s", tls_why_word(tls_why(a.t)));
	cr_assert(tls_why(b.t) == TLS_WHY_CIPHER || tls_why(b.t) == TLS_WHY_ALERT, "%s",
		tls_why_word(tls_why(b.t)));
	part();
	tls_site_unref(s);
	tls_policy_unref(p);
	/* One in common, but not what the client has guessed: it is asked again. */
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .groups = "P-384:P-521"});
	p = POLICY(.demand = TLS_DEMAND_NONE);
	meet(s, p, NULL, 0);
	assert_met();
	cr_assert_str_eq(a.facts.group, "P-384");
	part();
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

Test(tls, version_that_is_too_low)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .min = TLS_1_3});
	p = POLICY(.ciphers = TLS12_ECDSA);
	meet(s, p, NULL, 0);
	cr_assert(a.ends == 1 && b.ends == 1 && a.opens == 0 && b.opens == 0);
	cr_assert(tls_why(a.t) == TLS_WHY_VERSION || tls_why(a.t) == TLS_WHY_CIPHER, "%s",
		tls_why_word(tls_why(a.t)));
	part();
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

/* ---- the choice of a certificate ---- */

static void assert_shown(
	struct tls_site *s, struct tls_policy *p, const char *name, const char *subject)
{
	meet(s, p, name, 0);
	assert_met();
	cr_assert_str_eq(b.facts.subject, subject, "%s shown for %s", b.facts.subject, name);
	part();
}

Test(tls, certificate_by_the_host_that_is_named)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = SITE("other-name", "ecdsa");
	p = POLICY(.demand = TLS_DEMAND_NONE);
	assert_shown(s, p, "mx.example.org", "mx.example.org");
	assert_shown(s, p, "MX.Example.ORG", "mx.example.org");
	assert_shown(s, p, "any.wild.example", "mx.example.org");
	assert_shown(s, p, "other.example.net", "other.example.net");
	assert_shown(s, p, "nobody.example", "other.example.net");
	assert_shown(s, p, "wild.example", "other.example.net");
	assert_shown(s, p, "a.b.wild.example", "other.example.net");
	assert_shown(s, p, NULL, "other.example.net");
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

static void assert_kind(struct tls_site *s, const char *name, const char *ciphers, bool rsa)
{
	struct tls_policy *p = POLICY(.ciphers = ciphers);

	meet(s, p, name, 0);
	assert_met();
	cr_assert_eq(a.t->pair->kind == HELLO_RSA, rsa, "for %s with %s", name, ciphers);
	part();
	tls_policy_unref(p);
}

Test(tls, ecdsa_before_rsa_where_the_client_can)
{
	struct tls_site *s;

	open_all();
	s = SITE("rsa", "ecdsa");
	assert_kind(s, "mx.example.org", NULL, false);
	assert_kind(s, "mx.example.org", TLS12_RSA, true);
	assert_kind(s, "mx.example.org", TLS12_ECDSA, false);
	/* No name: the first that it can use. */
	assert_kind(s, NULL, NULL, true);
	assert_kind(s, NULL, TLS12_ECDSA, false);
	tls_site_unref(s);
	/* A name does not help whom it is of no use to. */
	s = SITE("ecdsa");
	struct tls_policy *p = POLICY(.ciphers = TLS12_RSA);
	meet(s, p, "mx.example.org", 0);
	assert_failed(&a, TLS_WHY_CIPHER);
	assert_failed(&b, TLS_WHY_CIPHER);
	cr_assert_eq(tls_alert(b.t), 40);
	part();
	tls_policy_unref(p);
	tls_site_unref(s);
	close_all();
}

Test(tls, names)
{
	static const struct {
		const char *pattern, *host;
		bool covers;
	} cases[] = {
		{"mx.example.org", "mx.example.org", true},
		{"mx.example.org", "MX.EXAMPLE.ORG.", true},
		{"mx.example.org", "mx.example.com", false},
		{"*.example.org", "mx.example.org", true},
		{"*.example.org", "example.org", false},
		{"*.example.org", ".example.org", false},
		{"*.example.org", "a.b.example.org", false},
		{"*.org", "example.org", false},
		{"*.", "x", false},
		{"*", "x", false},
		{"m*.example.org", "mx.example.org", false},
		{"", "", false},
		{".", ".", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		cr_assert_eq(name_covers(span_str(cases[i].pattern), span_str(cases[i].host)),
			cases[i].covers, "%s for %s", cases[i].pattern, cases[i].host);
}

/* ---- the server's certificate ---- */

struct proof {
	const char *pair, *name;
	enum tls_why why;
};

static const struct proof proofs[] = {
	{"ecdsa", "mx.example.org", TLS_WHY_NONE},
	{"rsa", "localhost", TLS_WHY_NONE},
	{"ecdsa", "x.wild.example", TLS_WHY_NONE},
	{"ecdsa", "mx.example.com", TLS_WHY_NAME},
	{"ecdsa", "127.0.0.1", TLS_WHY_NAME},
	{"other-name", "mx.example.org", TLS_WHY_NAME},
	{"expired", "mx.example.org", TLS_WHY_EXPIRED},
	{"selfsigned", "mx.example.org", TLS_WHY_SELF_SIGNED},
	{"unknown-ca", "mx.example.org", TLS_WHY_UNKNOWN_CA},
};

Test(tls, what_is_demanded_of_the_server)
{
	struct tls_policy *verify, *none;

	open_all();
	verify = POLICY(.demand = TLS_DEMAND_VERIFY);
	none = POLICY(.demand = TLS_DEMAND_NONE);
	for (size_t i = 0; i < ARRAY_LEN(proofs); i++) {
		const struct proof *c = &proofs[i];
		struct tls_site *s = SITE(c->pair);

		/* It is noted, whether or not it is demanded. */
		meet(s, none, c->name, 0);
		assert_met();
		cr_assert(b.facts.certified);
		cr_assert_eq(b.facts.doubt, c->why, "%s: %s instead of %s", c->pair,
			tls_why_word(b.facts.doubt), tls_why_word(c->why));
		cr_assert_eq(b.facts.verified, c->why == TLS_WHY_NONE);
		part();
		meet(s, verify, c->name, 0);
		if (c->why == TLS_WHY_NONE) {
			assert_met();
			cr_assert(b.facts.verified);
		} else {
			assert_failed(&b, c->why);
			cr_assert_eq(b.opens, 0);
			UNTIL(a.ends, (void)0);
			assert_failed(&a, TLS_WHY_REFUSED);
			cr_assert(tls_alert(a.t) >= 42 && tls_alert(a.t) <= 48, "alert %u",
				tls_alert(a.t));
		}
		part();
		tls_site_unref(s);
	}
	tls_policy_unref(verify);
	tls_policy_unref(none);
	close_all();
}

/* What one connection lets pass must not be believed by another. */
Test(tls, a_bad_chain_leaves_nothing_behind)
{
	struct tls_policy *p;
	struct tls_site *s;

	open_all();
	s = SITE("unknown-ca");
	p = POLICY(.demand = TLS_DEMAND_NONE);
	for (unsigned i = 0; i < 3; i++) {
		meet(s, p, "mx.example.org", 0);
		assert_met();
		cr_assert_eq(b.facts.doubt, TLS_WHY_UNKNOWN_CA);
		part();
	}
	tls_site_unref(s);
	/* What is bad in itself does not end it, where nothing is demanded. */
	cr_assert_eq(system("cd " CERTS " && cat selfsigned.pem expired.pem > odd.pem && "
			    "cp selfsigned.key odd.key"),
		0);
	s = SITE("odd");
	meet(s, p, "mx.example.org", 0);
	assert_met();
	cr_assert_eq(b.facts.doubt, TLS_WHY_SELF_SIGNED);
	part();
	tls_site_unref(s);
	/* And what a good chain brings along without need is in no way. */
	cr_assert_eq(system("cd " CERTS " && cat ecdsa.pem client-ca.pem > odd.pem && "
			    "cp ecdsa.key odd.key"),
		0);
	s = SITE("odd");
	meet(s, p, "mx.example.org", 0);
	assert_met();
	cr_assert(b.facts.verified, "%s", tls_why_word(b.facts.doubt));
	part();
	tls_policy_unref(p);
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	meet(s, p, "mx.example.org", 0);
	assert_met();
	cr_assert(b.facts.verified);
	part();
	tls_policy_unref(p);
	tls_site_unref(s);
	close_all();
}

/* ---- pins ---- */

static void digest_of(const char *command, uint8_t out[32])
{
	FILE *f = popen(command, "r");

	cr_assert(f != NULL);
	for (unsigned i = 0; i < 32; i++) {
		unsigned v;

		cr_assert_eq(fscanf(f, "%2x", &v), 1);
		out[i] = (uint8_t)v;
	}
	pclose(f);
}

#define DIGEST_DER "openssl x509 -in " CERTS "/%s.pem -outform DER | sha256sum"
#define DIGEST_KEY                                                                               \
	"openssl x509 -in " CERTS "/%s.pem -noout -pubkey | openssl pkey -pubin -outform DER | " \
	"sha256sum"

Test(tls, pins)
{
	static const char *const pairs[] = {"selfsigned", "rsa"};
	static const char *const forms[] = {DIGEST_DER, DIGEST_KEY};
	struct tls_site *other;
	char command[256];
	uint8_t pins[2][32];

	open_all();
	other = SITE("ecdsa");
	memset(pins, 0x5a, sizeof(pins));
	for (size_t i = 0; i < 4; i++) {
		struct tls_site *s = SITE(pairs[i / 2]);
		struct tls_policy *p;

		(void)snprintf(command, sizeof(command), forms[i % 2], pairs[i / 2]);
		digest_of(command, pins[1]);
		p = POLICY(.demand = TLS_DEMAND_PIN, .pins = pins, .pin_count = 2);
		/* Whatever the chain and the name say. */
		meet(s, p, i % 2 ? "nobody.example" : NULL, 0);
		assert_met();
		cr_assert_eq(b.facts.verified, i == 2);
		part();
		meet(other, p, "mx.example.org", 0);
		assert_failed(&b, TLS_WHY_PIN);
		cr_assert_eq(b.opens, 0);
		part();
		tls_policy_unref(p);
		tls_site_unref(s);
	}
	tls_site_unref(other);
	close_all();
}

/* ---- the client's certificate ---- */

struct showing {
	enum tls_client_cert demand;
	const char *shown;
	enum tls_why server; /* failure */
	enum tls_why doubt;
};

static void try_showing(const struct showing *c, const char *ciphers)
{
	struct tls_site *s = site_of(
		(struct site_form){.pairs = {"ecdsa"}, .client_cert = c->demand, .keys = keys});
	struct tls_policy *p = c->shown ? POLICY(.ciphers = ciphers, .own = pair_of(c->shown))
					: POLICY(.ciphers = ciphers);

	meet(s, p, NULL, 9);
	if (c->server != TLS_WHY_NONE) {
		UNTIL(b.ends, (void)0);
		assert_failed(&a, c->server);
		cr_assert_eq(a.opens, 0);
		cr_assert(tls_why(b.t) == TLS_WHY_REFUSED ||
				  tls_why(b.t) == TLS_WHY_NO_CERTIFICATE ||
				  tls_why(b.t) == TLS_WHY_CIPHER || tls_why(b.t) == TLS_WHY_ALERT,
			"%s", tls_why_word(tls_why(b.t)));
	} else {
		bool shows = c->demand != TLS_CLIENT_NONE && c->shown != NULL;

		assert_met();
		cr_assert_eq(a.facts.certified, shows);
		cr_assert_eq(a.facts.verified, shows && c->doubt == TLS_WHY_NONE);
		cr_assert_eq(a.facts.doubt, c->doubt, "%s", tls_why_word(a.facts.doubt));
		if (shows)
			cr_assert_str_eq(a.facts.subject, strcmp(c->shown, "client") == 0
								  ? "client.example.com"
								  : "mx.example.org");
	}
	part();
	/* Resumed, it would not be shown. */
	if (c->demand != TLS_CLIENT_NONE && c->server == TLS_WHY_NONE) {
		meet(s, p, NULL, 9);
		assert_met();
		cr_assert_not(a.facts.resumed);
		part();
	}
	tls_policy_unref(p);
	tls_site_unref(s);
}

Test(tls, certificates_of_clients)
{
	static const struct showing cases[] = {
		{TLS_CLIENT_NONE, "client", TLS_WHY_NONE, TLS_WHY_NONE},
		{TLS_CLIENT_OPTIONAL, NULL, TLS_WHY_NONE, TLS_WHY_NONE},
		{TLS_CLIENT_OPTIONAL, "client", TLS_WHY_NONE, TLS_WHY_NONE},
		{TLS_CLIENT_OPTIONAL, "unknown-ca", TLS_WHY_NONE, TLS_WHY_UNKNOWN_CA},
		{TLS_CLIENT_OPTIONAL, "selfsigned", TLS_WHY_NONE, TLS_WHY_SELF_SIGNED},
		{TLS_CLIENT_REQUIRED, "client", TLS_WHY_NONE, TLS_WHY_NONE},
		{TLS_CLIENT_REQUIRED, NULL, TLS_WHY_NO_CERTIFICATE, TLS_WHY_NONE},
		{TLS_CLIENT_REQUIRED, "unknown-ca", TLS_WHY_UNKNOWN_CA, TLS_WHY_NONE},
		{TLS_CLIENT_REQUIRED, "ecdsa", TLS_WHY_UNKNOWN_CA, TLS_WHY_NONE},
	};

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		try_showing(&cases[i], NULL);
		try_showing(&cases[i], TLS12_ECDSA);
	}
	close_all();
}

/* A ticket of a site that asks nobody is nothing to one that does. */
Test(tls, a_ticket_is_no_certificate)
{
	struct tls_site *open_to_all, *strict;
	struct tls_policy *p;

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	open_to_all = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	strict = site_of((struct site_form){
		.pairs = {"ecdsa"}, .client_cert = TLS_CLIENT_REQUIRED, .keys = keys});
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	meet(open_to_all, p, "localhost", 4);
	assert_met();
	part();
	meet(strict, p, "localhost", 4);
	assert_failed(&a, TLS_WHY_NO_CERTIFICATE);
	part();
	tls_site_unref(open_to_all);
	tls_site_unref(strict);
	tls_policy_unref(p);
	close_all();
}

/* ---- resuming ---- */

/* Meets and says whether that was a resumption, which both sides must agree upon. */
static bool resumes(struct tls_site *s, struct tls_policy *p, const char *name, uint64_t key)
{
	bool both;

	meet(s, p, name, key);
	assert_met();
	cr_assert_eq(a.facts.resumed, b.facts.resumed);
	both = a.facts.resumed;
	cr_assert(b.facts.certified && b.facts.verified);
	cr_assert_str_eq(b.facts.subject, "mx.example.org");
	part();
	return both;
}

Test(tls, resumes_1_3)
{
	struct tls_site *s, *other;
	struct tls_policy *p;
	uint64_t now = (uint64_t)time(NULL);

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"rsa", "ecdsa"}, .keys = keys});
	other = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	cr_assert_not(resumes(s, p, "mx.example.org", 1));
	cr_assert(resumes(s, p, "mx.example.org", 1));
	cr_assert(resumes(s, p, "mx.example.org", 1), "a resumed session leaves one as well");
	cr_assert(resumes(other, p, "mx.example.org", 1), "another context, the same keys");
	cr_assert_not(resumes(s, p, "mx.example.org", 2), "another key of the caller");
	/* Keys of before are good twice; what they open is sealed anew. */
	tls_keys_tick(keys, now + 3600);
	cr_assert(resumes(s, p, "mx.example.org", 1));
	tls_keys_tick(keys, now + 2 * 3600);
	cr_assert(resumes(s, p, "mx.example.org", 1));
	tls_keys_tick(keys, now + 4 * 3600);
	cr_assert(resumes(s, p, "mx.example.org", 1));
	tls_keys_tick(keys, now + 7 * 3600);
	cr_assert_not(resumes(s, p, "mx.example.org", 1), "a key that is forgotten");
	cr_assert(resumes(s, p, "mx.example.org", 1));
	/* Not for another host, whatever the caller says. */
	cr_assert_not(resumes(s, p, "localhost", 1));
	tls_site_unref(s);
	tls_site_unref(other);
	tls_policy_unref(p);
	close_all();
}

/* wolfSSL as a client cannot be refused a ticket of 1.2. */
Test(tls, a_client_keeps_no_session_of_1_2)
{
	struct tls_policy *p;
	struct tls_site *s;

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	p = POLICY(.demand = TLS_DEMAND_VERIFY, .ciphers = TLS12_ECDSA);
	cr_assert_not(resumes(s, p, "localhost", 1));
	cr_assert_not(resumes(s, p, "localhost", 1));
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

Test(tls, sessions_of_another_policy_are_not_used)
{
	struct tls_policy *p, *q;
	struct tls_site *s;

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	q = POLICY(.demand = TLS_DEMAND_VERIFY);
	cr_assert_not(resumes(s, p, "localhost", 1));
	cr_assert_not(resumes(s, q, "localhost", 1));
	cr_assert(resumes(s, p, "localhost", 1));
	cr_assert_not(resumes(s, p, "localhost", 0), "0: none");
	tls_policy_unref(p);
	tls_policy_unref(q);
	tls_site_unref(s);
	close_all();
}

Test(tls, each_session_is_used_once)
{
	struct tls_policy *p;
	struct tls_site *s;
	struct end c = {.closes = 0}, d = {.closes = 0};
	int fd[2];

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	cr_assert_not(resumes(s, p, "localhost", 1));
	/* Two at the same time, one session. */
	begin_pair(s, p, "localhost", 1);
	unix_pair(fd, 0);
	end_begin(&c, fd[0], tls_accept(&core, s));
	end_begin(&d, fd[1], tls_connect(&core, p, "localhost", 1));
	tls_start(d.t);
	UNTIL(settled(&a) && settled(&b) && settled(&c) && settled(&d), (void)0);
	cr_assert_eq(a.facts.resumed + c.facts.resumed, 1);
	cr_assert_eq(b.facts.resumed + d.facts.resumed, 1);
	stream_put(&a.s, SPAN_LIT("x"));
	stream_put(&c.s, SPAN_LIT("x"));
	UNTIL(b.in.n == 1 && d.in.n == 1, (void)0);
	part();
	end_close(&c);
	end_close(&d);
	/* Both left one. */
	cr_assert(resumes(s, p, "localhost", 1));
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

static void write_file(const char *path, const void *p, size_t n, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);

	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, p, n), (ssize_t)n);
	fchmod(fd, mode);
	close(fd);
}

Test(tls, ticket_keys_of_a_file_agree)
{
	struct tls_keys *later;
	struct tls_policy *p;
	struct tls_site *s, *t;
	uint8_t secret[80];

	open_all();
	rnd_fill(&seed, secret, sizeof(secret));
	secret[7] = 0;
	write_file(CERTS "/ticket.key", secret, sizeof(secret), 0600);
	keys = tls_keys_new(CERTS "/ticket.key", 3600, &err);
	cr_assert(keys != NULL, "%s", err.text);
	cr_assert_eq(
		system("cd " CERTS " && base64 ticket.key > ticket.b64 && chmod 640 ticket.b64"),
		0);
	later = tls_keys_new(CERTS "/ticket.b64", 3600, &err);
	cr_assert(later != NULL, "%s", err.text);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	t = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = later});
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	cr_assert_not(resumes(s, p, "localhost", 1));
	cr_assert(resumes(t, p, "localhost", 1));
	tls_keys_tick(later, (uint64_t)time(NULL) + 3600);
	cr_assert(resumes(t, p, "localhost", 1));
	cr_assert_not(resumes(s, p, "localhost", 1), "of a time that has not come yet");
	tls_keys_tick(later, (uint64_t)time(NULL));
	cr_assert(resumes(t, p, "localhost", 1));
	tls_site_unref(s);
	tls_site_unref(t);
	tls_policy_unref(p);
	tls_keys_free(later);
	close_all();
}

Test(tls, ticket_files_that_are_refused)
{
	open_all();
	write_file(CERTS "/bad.key", "aGVsbG8=\n", 9, 0600);
	cr_assert(tls_keys_new(CERTS "/bad.key", 60, &err) == NULL);
	cr_assert(strstr(err.text, "80 octets") != NULL, "%s", err.text);
	cr_assert_str_eq(err.file, CERTS "/bad.key");
	write_file(CERTS "/bad.key", proofs, 90, 0604);
	cr_assert(tls_keys_new(CERTS "/bad.key", 60, &err) == NULL);
	cr_assert(strstr(err.text, "everybody") != NULL, "%s", err.text);
	cr_assert(tls_keys_new(CERTS "/none.key", 60, &err) == NULL);
	cr_assert(strstr(err.text, "No such file") != NULL, "%s", err.text);
	cr_assert(tls_keys_new(CERTS, 60, &err) == NULL);
	close_all();
}

/* Bounded for each server, and in all. */
Test(tls, sessions_are_bounded)
{
	struct tls_resumes *r;
	WOLFSSL_CTX *ctx;
	WOLFSSL *ssl;
	struct resume v = {0}, out;
	unsigned n = 0;

	open_all();
	ctx = ctx_new(false, TLS_1_2, NULL, NULL, &err);
	ssl = wolfSSL_new(ctx);
	r = resumes_new();
	for (uint64_t key = 1; key <= 2 * RESUMES_MAX; key++)
		for (unsigned i = 0; i < (key % 100 == 0 ? 50u : 1u); i++) {
			v.session = wolfSSL_get1_session(ssl);
			v.chained = (uint8_t)i;
			resumes_put(r, key, 3, &v);
		}
	cr_assert_not(resumes_take(r, 1, 3, &out), "the oldest");
	cr_assert_not(resumes_take(r, 2 * RESUMES_MAX - 1, 4, &out));
	while (resumes_take(r, 2000, 3, &out)) {
		cr_assert_eq(out.chained, 49 - n, "the newest first");
		wolfSSL_SESSION_free(out.session);
		n++;
	}
	cr_assert_eq(n, RESUMES_PER_KEY);
	n = 0;
	for (uint64_t key = 1; key <= 2 * RESUMES_MAX; key++)
		while (resumes_take(r, key, 3, &out)) {
			wolfSSL_SESSION_free(out.session);
			n++;
		}
	cr_assert_eq(n, RESUMES_MAX - RESUMES_PER_KEY);
	v.session = wolfSSL_get1_session(ssl);
	resumes_put(r, 5, 3, &v);
	resumes_free(r);
	wolfSSL_free(ssl);
	wolfSSL_CTX_free(ctx);
	close_all();
}

/* ---- what cannot be made ---- */

static void assert_no_site(struct tls_site_conf c, const char *file, const char *text)
{
	cr_assert(tls_site_new(&c, NULL, NULL, &err) == NULL);
	cr_assert(strstr(err.text, text) != NULL, "%s", err.text);
	if (file == NULL)
		cr_assert(err.file == NULL);
	else
		cr_assert_eq(err.file, file);
}

Test(tls, sites_that_cannot_be)
{
	struct tls_pair good, pair;

	open_all();
	good = pair = pair_of("ecdsa");
	pair.chain = path_of("missing", "pem");
	assert_no_site((struct tls_site_conf){.pairs = &pair, .pair_count = 1}, pair.chain,
		"No such file");
	pair = (struct tls_pair){good.chain, path_of("rsa", "key")};
	assert_no_site((struct tls_site_conf){.pairs = &pair, .pair_count = 1}, pair.key,
		"is not the key of");
	pair = (struct tls_pair){good.chain, good.chain};
	assert_no_site(
		(struct tls_site_conf){.pairs = &pair, .pair_count = 1}, pair.key, "private key");
	pair = (struct tls_pair){good.key, good.key};
	assert_no_site((struct tls_site_conf){.pairs = &pair, .pair_count = 1}, pair.chain,
		"no PEM file of a certificate");
	assert_no_site(
		(struct tls_site_conf){
			.pairs = &good, .pair_count = 1, .ciphers = TLS13_ONLY ":ROT13"},
		NULL, "`ROT13`");
	assert_no_site(
		(struct tls_site_conf){
			.pairs = &good, .pair_count = 1, .ciphers = TLS12_RSA, .min = TLS_1_3},
		NULL, "no cipher of version 1.3");
	assert_no_site((struct tls_site_conf){.pairs = &good, .pair_count = 1, .groups = "P-257"},
		NULL, "`P-257`");
	assert_no_site((struct tls_site_conf){.pairs = &good,
			       .pair_count = 1,
			       .client_cert = TLS_CLIENT_REQUIRED,
			       .client_ca = good.key},
		good.key, "no CA");
	close_all();
}

Test(tls, policies_that_cannot_be)
{
	struct tls_policy_conf c = {.ca = CERTS "/missing.pem"};

	open_all();
	cr_assert(tls_policy_new(&c, NULL, &err) == NULL);
	cr_assert_eq(err.file, c.ca);
	c.ca = CERTS "/ca.key";
	cr_assert(tls_policy_new(&c, NULL, &err) == NULL);
	cr_assert(strstr(err.text, "no CA") != NULL, "%s", err.text);
	c.ca = CERTS "/ca.pem";
	c.own = (struct tls_pair){CERTS "/client.pem", CERTS "/ca.key"};
	cr_assert(tls_policy_new(&c, NULL, &err) == NULL);
	cr_assert_eq(err.file, c.own.key);
	close_all();
}

Test(tls, authorities_of_a_directory_and_of_the_system)
{
	struct tls_policy_conf c = {.demand = TLS_DEMAND_VERIFY};
	struct tls_policy *p;
	struct tls_site *s;

	open_all();
	cr_assert_eq(
		system("mkdir -p " CERTS "/cas && cp " CERTS "/ca.pem " CERTS "/cas/x.pem"), 0);
	p = POLICY(.demand = TLS_DEMAND_VERIFY, .ca = CERTS "/cas");
	s = SITE("ecdsa");
	meet(s, p, "localhost", 0);
	assert_met();
	part();
	tls_policy_unref(p);
	p = tls_policy_new(&c, NULL, &err);
	cr_assert(p != NULL, "%s", err.text);
	meet(s, p, "localhost", 0);
	assert_failed(&b, TLS_WHY_UNKNOWN_CA);
	part();
	tls_policy_unref(p);
	tls_site_unref(s);
	close_all();
}

Test(tls, when_certificates_end)
{
	struct tls_site *s;
	const char *chain;

	open_all();
	s = SITE("ecdsa", "expired", "rsa");
	cr_assert_eq(tls_site_expires_s(s, &chain), 1580515200); /* 2020-02-01 */
	cr_assert_str_eq(chain, CERTS "/expired.pem");
	tls_site_unref(s);
	close_all();
}

Test(tls, library)
{
	open_all();
	cr_assert_eq(strncmp(tls_library_version(), "wolfSSL ", 8), 0);
#if defined(__x86_64__)
	cr_assert_eq(tls_library_accelerated(), __builtin_cpu_supports("aes") != 0);
#endif
	for (int w = 0; w < TLS_WHY_COUNT; w++)
		cr_assert(tls_why_word(w)[0] != '\0' && tls_why_text(w)[0] != '\0');
	close_all();
}

/* ---- peers that the test plays ---- */

/* wolfSSL on a plain descriptor: what another implementation's client does. */
struct far {
	int fd;
	WOLFSSL_CTX *ctx;
	WOLFSSL *ssl;
	struct pile in;
	bool up, over;
	int err; /* when it is over */
};

static struct far far;

static void far_begin(struct tls_site *s, WOLFSSL_METHOD *method)
{
	int fd[2];

	signal(SIGPIPE, SIG_IGN);
	unix_pair(fd, 0);
	end_begin(&a, fd[0], tls_accept(&core, s));
	far = (struct far){.fd = fd[1]};
	far.ctx = wolfSSL_CTX_new(method);
	cr_assert(far.ctx != NULL);
	wolfSSL_CTX_set_verify(far.ctx, WOLFSSL_VERIFY_NONE, NULL);
	far.ssl = wolfSSL_new(far.ctx);
	wolfSSL_set_fd(far.ssl, far.fd);
	wolfSSL_set_using_nonblock(far.ssl, 1);
}

static void far_step(void)
{
	uint8_t octets[4096];
	int ret;

	if (far.over)
		return;
	ret = far.up ? wolfSSL_read(far.ssl, octets, sizeof(octets)) : wolfSSL_connect(far.ssl);
	if (far.up && ret > 0)
		pile_add(&far.in, octets, (size_t)ret);
	if (ret > 0) {
		far.up = true;
		return;
	}
	far.err = wolfSSL_get_error(far.ssl, ret);
	far.over = far.err != WOLFSSL_ERROR_WANT_READ;
}

static void far_up(struct tls_site *s, WOLFSSL_METHOD *method)
{
	far_begin(s, method);
	UNTIL(far.up && a.opens == 1, far_step());
}

static void far_end(void)
{
	wolfSSL_free(far.ssl);
	wolfSSL_CTX_free(far.ctx);
	pile_free(&far.in);
	if (far.fd >= 0)
		close(far.fd);
}

static int far_alert(void)
{
	WOLFSSL_ALERT_HISTORY h;

	memset(&h, 0, sizeof(h));
	wolfSSL_get_alert_history(far.ssl, &h);
	return h.last_rx.code;
}

static int no_secret(WOLFSSL *ssl, void *secret, int *n, void *arg)
{
	return -1;
}

/* Tickets of 1.2, as clients use them that can be refused one: without a session's number, which
 * wolfSSL leaves out where a secret is to come from elsewhere. */
static bool far_resumes(struct tls_site *s, WOLFSSL_SESSION **session)
{
	bool resumed;

	far_begin(s, wolfTLSv1_2_client_method());
	wolfSSL_UseSessionTicket(far.ssl);
	wolfSSL_UseSNI(far.ssl, WOLFSSL_SNI_HOST_NAME, "localhost", 9);
	if (*session != NULL) {
		cr_assert_eq(wolfSSL_set_session(far.ssl, *session), WOLFSSL_SUCCESS);
		wolfSSL_set_session_secret_cb(far.ssl, no_secret, NULL);
		wolfSSL_set_session_secret_cb(far.ssl, NULL, NULL);
		wolfSSL_SESSION_free(*session);
	}
	UNTIL((far.up || far.over) && settled(&a), far_step());
	cr_assert(far.up && a.opens == 1, "server %s, client %d", tls_why_word(tls_why(a.t)),
		far.err);
	resumed = wolfSSL_session_reused(far.ssl);
	cr_assert_eq(a.facts.resumed, resumed);
	cr_assert_str_eq(a.facts.version, "TLSv1.2");
	*session = wolfSSL_get1_session(far.ssl);
	end_close(&a);
	far_end();
	return resumed;
}

Test(tls, resumes_1_2)
{
	uint64_t now = (uint64_t)time(NULL);
	WOLFSSL_SESSION *session = NULL;
	struct tls_site *s, *other;

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"rsa", "ecdsa"}, .keys = keys});
	other = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	cr_assert_not(far_resumes(s, &session));
	cr_assert(far_resumes(s, &session));
	cr_assert(far_resumes(other, &session));
	for (unsigned i = 1; i < 6; i++) {
		tls_keys_tick(keys, now + i * 3600);
		cr_assert(far_resumes(s, &session), "renewed under every new key");
	}
	tls_keys_tick(keys, now + 9 * 3600);
	cr_assert_not(far_resumes(s, &session));
	wolfSSL_SESSION_free(session);
	session = NULL;
	cr_assert_not(far_resumes(s, &session));
	cr_assert(far_resumes(s, &session));
	wolfSSL_SESSION_free(session);
	tls_site_unref(s);
	tls_site_unref(other);
	close_all();
}

Test(tls, application_protocols)
{
	static const struct {
		char *list;
		bool welcome;
	} cases[] = {{"http/1.1", false}, {"h2,imap", false}, {"smtp", true}, {"h2,smtp", true}};
	struct tls_site *s;

	open_all();
	s = SITE("ecdsa");
	for (size_t i = 0; i < 2 * ARRAY_LEN(cases); i++) {
		char *list = cases[i / 2].list;

		far_begin(s, i % 2 ? wolfTLSv1_2_client_method() : wolfTLSv1_3_client_method());
		cr_assert_eq(wolfSSL_UseALPN(far.ssl, list, (unsigned)strlen(list),
				     WOLFSSL_ALPN_FAILED_ON_MISMATCH),
			WOLFSSL_SUCCESS);
		UNTIL((far.up || far.over) && settled(&a), far_step());
		if (cases[i / 2].welcome) {
			char *chosen = NULL;
			word16 n = 0;

			cr_assert(a.opens == 1 && far.up, "%s", list);
			wolfSSL_ALPN_GetProtocol(far.ssl, &chosen, &n);
			cr_assert(n == 4 && memcmp(chosen, "smtp", 4) == 0);
		} else {
			assert_failed(&a, TLS_WHY_ALPN);
			cr_assert_eq(far_alert(), 120);
		}
		end_close(&a);
		far_end();
	}
	tls_site_unref(s);
	close_all();
}

Test(tls, the_peers_end_and_a_cut)
{
	struct tls_site *s;

	open_all();
	s = SITE("ecdsa");
	for (unsigned i = 0; i < 4; i++) {
		bool says = i % 2;

		far_up(s, i < 2 ? wolfTLSv1_3_client_method() : wolfTLSv1_2_client_method());
		cr_assert_eq(wolfSSL_write(far.ssl, "QUIT", 4), 4);
		if (says)
			wolfSSL_shutdown(far.ssl);
		close(far.fd);
		far.fd = -1;
		UNTIL(a.ends == 1, (void)0);
		cr_assert_eq(a.end_res, RING_EOF);
		cr_assert_eq(tls_said_end(a.t), says);
		cr_assert_eq(tls_why(a.t), TLS_WHY_NONE);
		cr_assert(a.in.n == 4 && memcmp(a.in.p, "QUIT", 4) == 0);
		end_close(&a);
		far_end();
	}
	tls_site_unref(s);
	close_all();
}

Test(tls, octets_behind_the_end_are_not_read)
{
	struct tls_site *s;

	open_all();
	s = SITE("ecdsa");
	far_up(s, wolfTLSv1_3_client_method());
	wolfSSL_shutdown(far.ssl);
	cr_assert_eq(send(far.fd, "\x17\x03\x03\x00\x03xyz", 8, MSG_NOSIGNAL), 8);
	UNTIL(a.ends == 1, (void)0);
	cr_assert_eq(a.end_res, RING_EOF);
	/* The other direction is not over by that. */
	stream_put(&a.s, SPAN_LIT("221 bye\r\n"));
	stream_finish(&a.s);
	UNTIL(a.closes == 1, (void)0);
	UNTIL(far.over, far_step());
	cr_assert_eq(far.err, WOLFSSL_ERROR_ZERO_RETURN);
	end_close(&a);
	far_end();
	tls_site_unref(s);
	close_all();
}

Test(tls, new_keys_while_it_lasts)
{
	struct tls_site *s;

	open_all();
	s = SITE("ecdsa");
	far_up(s, wolfTLSv1_3_client_method());
	for (unsigned i = 0; i < 200; i++) {
		cr_assert_eq(wolfSSL_update_keys(far.ssl), WOLFSSL_SUCCESS);
		cr_assert_eq(wolfSSL_write(far.ssl, "NOOP\r\n", 6), 6);
		stream_put(&a.s, SPAN_LIT("250\r\n"));
		UNTIL(a.in.n == 6 * (i + 1) && far.in.n == 5 * (i + 1), far_step());
	}
	/* And nothing but that: it could go on for ever. */
	for (unsigned i = 0; i < 100; i++)
		(void)wolfSSL_update_keys(far.ssl);
	UNTIL(a.ends == 1, (void)0);
	assert_failed(&a, TLS_WHY_PROTOCOL);
	end_close(&a);
	far_end();
	tls_site_unref(s);
	close_all();
}

Test(tls, only_1_2_and_only_1_3)
{
	struct tls_site *s;

	open_all();
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .min = TLS_1_3});
	far_begin(s, wolfTLSv1_2_client_method());
	UNTIL(far.over && a.ends == 1, far_step());
	assert_failed(&a, TLS_WHY_VERSION);
	cr_assert_eq(far_alert(), 70);
	end_close(&a);
	far_end();
	far_up(s, wolfTLSv1_3_client_method());
	end_close(&a);
	far_end();
	tls_site_unref(s);
	close_all();
}

/* ---- octets by hand ---- */

/* What the server answers to them until it ends; in far.in. */
static void say(struct tls_site *s, const void *p, size_t n)
{
	size_t at = 0;
	int fd[2];

	unix_pair(fd, 0);
	end_begin(&a, fd[0], tls_accept(&core, s));
	far = (struct far){.fd = fd[1]};
	UNTIL(at == n && a.ends == 1, peer_write(far.fd, p, n, &at, 5000));
	end_close(&a);
	while (peer_read(far.fd, &far.in, 1000) > 0)
		;
	close(far.fd);
}

static enum tls_why said_why;

static void note_why(struct end *e, const char *what)
{
	if (strcmp(what, "end") == 0)
		said_why = tls_why(e->t);
}

static void assert_answer(struct tls_site *s, const struct octets *o, enum tls_why why, int alert)
{
	a.hook = note_why;
	said_why = TLS_WHY_NONE;
	say(s, o->p, o->n);
	cr_assert_eq(said_why, why, "%s instead of %s", tls_why_word(said_why), tls_why_word(why));
	if (alert < 0)
		cr_assert_eq(far.in.n, 0, "%zu octets", far.in.n);
	else
		cr_assert(far.in.n >= 7 && far.in.p[far.in.n - 7] == 21 &&
				  far.in.p[far.in.n - 1] == alert,
			"%zu octets, the last %u", far.in.n, far.in.p[far.in.n - 1]);
	pile_free(&far.in);
}

Test(tls, what_is_no_hello)
{
	static struct octets o, message;
	struct tls_site *s;

	open_all();
	s = SITE("ecdsa", "rsa");
	o.n = 0;
	put_run(&o, "EHLO client.example\r\n", 21);
	assert_answer(s, &o, TLS_WHY_NOT_TLS, -1);
	/* TLS 1.1, 1.0 and SSL 3. */
	for (uint16_t v = 0x0300; v < 0x0303; v++) {
		make_hello(
			&o, &(struct hello_form){.version = v, .suites = {0xc013, 0xc009, 0x2f}});
		assert_answer(s, &o, TLS_WHY_VERSION, 70);
	}
	/* Nothing in common. */
	make_hello(&o, &(struct hello_form){.suites = {0x0035}});
	assert_answer(s, &o, TLS_WHY_CIPHER, 40);
	/* The same group twice. */
	make_hello(&o, &(struct hello_form){.versions = {0x0304}, .shares = {29, 29}});
	assert_answer(s, &o, TLS_WHY_PROTOCOL, 47);
	/* Too long, and in too many pieces. */
	make_message(&message, &(struct hello_form){.padding = 17000});
	wrap(&o, &message, 16384);
	assert_answer(s, &o, TLS_WHY_PROTOCOL, 50);
	make_message(&message, &(struct hello_form){.padding = 100});
	wrap(&o, &message, 3);
	assert_answer(s, &o, TLS_WHY_PROTOCOL, 50);
	/* A hello, and then rubbish. */
	make_hello(&o, &(struct hello_form){.suites = {0xc02b}});
	put_run(&o, "MAIL FROM:<>\r\n", 14);
	a.hook = note_why;
	say(s, o.p, o.n);
	cr_assert_neq(said_why, TLS_WHY_NONE);
	pile_free(&far.in);
	a.hook = NULL;
	tls_site_unref(s);
	close_all();
}

/* Every octet of a good hello changed: it may fail or go on, but nothing worse. */
Test(tls, hellos_with_one_octet_changed)
{
	static struct octets o;
	struct tls_site *s;
	int fd[2];

	open_all();
	s = SITE("ecdsa", "rsa");
	make_hello(&o, &(struct hello_form){.sni = "localhost",
			       .alpn = {"smtp"},
			       .versions = {0x0304, 0x0303},
			       .shares = {29}});
	for (size_t i = 0; i < o.n; i++) {
		uint8_t was = o.p[i];

		o.p[i] = (uint8_t)(was ^ (rnd(&seed) % 255 + 1));
		unix_pair(fd, 0);
		end_begin(&a, fd[0], tls_accept(&core, s));
		cr_assert_eq(send(fd[1], o.p, o.n, 0), (ssize_t)o.n);
		for (unsigned k = 0; k < 3; k++)
			turn();
		cr_assert_eq(a.opens, 0);
		end_close(&a);
		close(fd[1]);
		o.p[i] = was;
	}
	tls_site_unref(s);
	close_all();
}

Test(tls, a_server_that_speaks_plain)
{
	struct tls_policy *p;
	int fd[2];

	open_all();
	p = POLICY(.demand = TLS_DEMAND_NONE);
	unix_pair(fd, 0);
	end_begin(&b, fd[0], tls_connect(&core, p, "localhost", 0));
	tls_start(b.t);
	cr_assert_eq(send(fd[1], "220 mx.example.org ESMTP\r\n", 26, 0), 26);
	UNTIL(b.ends == 1, (void)0);
	assert_failed(&b, TLS_WHY_NOT_TLS);
	end_close(&b);
	close(fd[1]);
	tls_policy_unref(p);
	close_all();
}

/* ---- a wire that the test cuts into pieces ---- */

struct lane {
	uint8_t p[20000];
	size_t n, at;
	uint64_t passed;
};

static struct wire {
	int fd[2];
	struct lane lane[2]; /* [0]: from fd[0] to fd[1] */
	size_t piece_max;
	uint64_t flip_at[2]; /* the octet to be changed, 1 for the first; 0: none */
} wire;

static void carry(unsigned from)
{
	struct lane *l = &wire.lane[from];
	ssize_t k;

	if (l->at == l->n) {
		size_t max = rnd(&seed) % 8 ? rnd(&seed) % wire.piece_max + 1 : rnd(&seed) % 7 + 1;

		k = recv(wire.fd[from], l->p, MIN_OF(max, sizeof(l->p)), MSG_DONTWAIT);
		l->at = 0;
		l->n = k > 0 ? (size_t)k : 0;
		if (wire.flip_at[from] > l->passed && wire.flip_at[from] <= l->passed + l->n)
			l->p[wire.flip_at[from] - l->passed - 1] ^= 0x20;
		l->passed += l->n;
	}
	if (l->at < l->n) {
		k = send(wire.fd[!from], l->p + l->at, l->n - l->at, MSG_DONTWAIT | MSG_NOSIGNAL);
		l->at += k > 0 ? (size_t)k : 0;
	}
}

static void carry_both(void)
{
	carry(0);
	carry(1);
}

static void wire_begin(struct tls_site *s, struct tls_policy *p, const char *name, size_t piece_max)
{
	int fd[2];

	memset(&wire, 0, sizeof(wire));
	wire.piece_max = piece_max;
	unix_pair(fd, 8192);
	end_begin(&a, fd[0], tls_accept(&core, s));
	wire.fd[0] = fd[1];
	unix_pair(fd, 8192);
	end_begin(&b, fd[0], tls_connect(&core, p, name, 0));
	wire.fd[1] = fd[1];
	tls_start(b.t);
}

static void wire_end(void)
{
	part();
	close(wire.fd[0]);
	close(wire.fd[1]);
}

Test(tls, a_handshake_octet_by_octet)
{
	static const char *const ciphers[] = {NULL, TLS12_RSA};
	struct tls_site *s;

	open_all();
	s = SITE("rsa");
	for (size_t i = 0; i < ARRAY_LEN(ciphers); i++) {
		struct tls_policy *p = POLICY(.demand = TLS_DEMAND_VERIFY, .ciphers = ciphers[i]);

		wire_begin(s, p, "localhost", 1);
		/* Waits until it may leave. */
		stream_put(&b.s, SPAN_LIT("EHLO early\r\n"));
		UNTIL(a.opens == 1 && b.opens == 1 && a.in.n == 12, carry_both());
		cr_assert_eq(memcmp(a.in.p, "EHLO early\r\n", 12), 0);
		wire_end();
		tls_policy_unref(p);
	}
	tls_site_unref(s);
	close_all();
}

#define LARGE (20u * MIB)

struct flow {
	uint8_t *octets;
	size_t at;
};

static void feed_end(struct end *e, struct flow *f)
{
	while (f->at < LARGE && stream_backlog(&e->s) < STREAM_HIGH_BYTES) {
		size_t n = rnd(&seed) % 4 ? rnd(&seed) % 40000 + 1 : rnd(&seed) % 3 + 1;

		n = MIN_OF(n, LARGE - f->at);
		stream_put(&e->s, span_of(f->octets + f->at, n));
		f->at += n;
	}
	stream_read(&e->s, rnd(&seed) % 8 != 0);
}

static void flow_with(const char *ciphers)
{
	struct tls_site *s;
	struct tls_policy *p;
	struct flow up = {malloc(LARGE), 0}, down = {malloc(LARGE), 0};

	open_all();
	rnd_fill(&seed, up.octets, LARGE);
	rnd_fill(&seed, down.octets, LARGE);
	s = SITE("ecdsa");
	p = POLICY(.ciphers = ciphers);
	wire_begin(s, p, NULL, 20000);
	UNTIL(a.opens && b.opens, carry_both());
	UNTIL(a.in.n == LARGE && b.in.n == LARGE, {
		feed_end(&a, &down);
		feed_end(&b, &up);
		for (unsigned i = 0; i < 8; i++)
			carry_both();
	});
	cr_assert_eq(memcmp(a.in.p, up.octets, LARGE), 0);
	cr_assert_eq(memcmp(b.in.p, down.octets, LARGE), 0);
	cr_assert_eq(a.s.bytes_in, LARGE);
	cr_assert_eq(a.s.bytes_out, LARGE);
	cr_assert(a.ends == 0 && b.ends == 0 && a.breaks == 0 && b.breaks == 0);
	wire_end();
	tls_site_unref(s);
	tls_policy_unref(p);
	free(up.octets);
	free(down.octets);
	close_all();
}

Test(tls, twenty_megabytes_each_way_1_3)
{
	flow_with(NULL);
}

Test(tls, twenty_megabytes_each_way_1_2)
{
	flow_with(TLS12_ECDSA);
}

Test(tls, an_octet_changed_on_the_way)
{
	static const char *const ciphers[] = {NULL, TLS12_ECDSA};
	struct tls_site *s;

	open_all();
	s = SITE("ecdsa");
	for (size_t i = 0; i < ARRAY_LEN(ciphers); i++) {
		struct tls_policy *p = POLICY(.ciphers = ciphers[i]);

		wire_begin(s, p, NULL, 20000);
		UNTIL(a.opens && b.opens, carry_both());
		for (unsigned k = 0; k < 9; k++) {
			carry_both();
			turn();
		}
		wire.flip_at[1] = wire.lane[1].passed + 9;
		stream_put(&b.s, SPAN_LIT("MAIL FROM:<a@example.org>\r\n"));
		UNTIL(a.ends == 1 && b.ends == 1, carry_both());
		assert_failed(&a, TLS_WHY_RECORD);
		assert_failed(&b, TLS_WHY_ALERT);
		cr_assert_eq(tls_alert(b.t), 20);
		cr_assert_eq(a.in.n, 0);
		wire_end();
		tls_policy_unref(p);
	}
	tls_site_unref(s);
	close_all();
}

/* ---- ends ---- */

Test(tls, what_was_staged_arrives_before_the_end)
{
	struct tls_site *s;
	struct tls_policy *p;
	uint8_t *large = malloc(MIB);

	open_all();
	rnd_fill(&seed, large, MIB);
	s = SITE("ecdsa");
	p = POLICY(.demand = TLS_DEMAND_NONE);
	meet(s, p, NULL, 0);
	assert_met();
	stream_put(&b.s, span_of(large, MIB));
	BED_CALL(&bed, stream_finish(&b.s));
	UNTIL(a.ends == 1 && b.closes == 1, (void)0);
	cr_assert_eq(a.end_res, RING_EOF);
	cr_assert(tls_said_end(a.t));
	cr_assert_eq(a.in.n, 10 + MIB);
	cr_assert_eq(memcmp(a.in.p + 10, large, MIB), 0);
	part();
	tls_site_unref(s);
	tls_policy_unref(p);
	free(large);
	close_all();
}

Test(tls, one_direction_ends_before_the_other)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = SITE("ecdsa");
	p = POLICY(.demand = TLS_DEMAND_NONE);
	meet(s, p, NULL, 0);
	assert_met();
	UNTIL(stream_shut(&b.s), (void)0);
	UNTIL(a.ends == 1, (void)0);
	cr_assert_eq(a.end_res, RING_EOF);
	cr_assert(tls_said_end(a.t));
	stream_put(&a.s, SPAN_LIT("250 still here\r\n"));
	UNTIL(b.in.n == 27, (void)0);
	cr_assert_eq(b.ends, 0);
	part();
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

Test(tls, closed_in_mid_stream_it_says_so)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = SITE("ecdsa");
	p = POLICY(.demand = TLS_DEMAND_NONE);
	meet(s, p, NULL, 0);
	assert_met();
	BED_CALL(&bed, stream_close(&b.s));
	UNTIL(a.ends == 1, (void)0);
	cr_assert_eq(a.end_res, RING_EOF);
	cr_assert(tls_said_end(a.t));
	part();
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

/* ---- calls from inside callbacks ---- */

enum act {
	ACT_CLOSE,
	ACT_FINISH,
	ACT_RESET,
	ACT_LET_GO,
	ACT_LET_GO_AND_CLOSE,
	ACT_CLOSE_AND_LET_GO
};

static struct {
	struct end *who;
	const char *when;
	enum act what;
	bool done;
} plan;

static void follow_plan(struct end *e, const char *what)
{
	if (plan.done || e != plan.who || strcmp(what, plan.when) != 0)
		return;
	plan.done = true;
	if (plan.what == ACT_LET_GO || plan.what == ACT_LET_GO_AND_CLOSE)
		let_go(e);
	if (plan.what == ACT_CLOSE || plan.what == ACT_LET_GO_AND_CLOSE ||
		plan.what == ACT_CLOSE_AND_LET_GO)
		stream_close(&e->s);
	if (plan.what == ACT_FINISH)
		stream_finish(&e->s);
	if (plan.what == ACT_RESET)
		stream_reset(&e->s);
	if (plan.what == ACT_CLOSE_AND_LET_GO)
		let_go(e);
}

static void act_out(struct tls_site *s, struct tls_policy *p)
{
	static const char three[] = "one, two, three";

	a.hook = b.hook = follow_plan;
	plan.done = false;
	begin_pair(s, p, NULL, 1);
	UNTIL(plan.done || (settled(&a) && settled(&b)), (void)0);
	/* Several records at once, so that some are left when the first is delivered. */
	for (unsigned i = 0; i < 3 && !plan.done; i++) {
		stream_put(&a.s, span_of(three, sizeof(three)));
		stream_put(&b.s, span_of(three, sizeof(three)));
		streams_flush(&bed.ss);
	}
	for (unsigned i = 0; i < 20 && !plan.done; i++)
		turn();
	if (!plan.done)
		stream_close(plan.who == &a ? &b.s : &a.s);
	UNTIL(plan.done, (void)0);
	for (unsigned i = 0; i < 5; i++)
		turn();
	if (plan.what != ACT_LET_GO)
		cr_assert_eq(plan.who->closes, 1);
	part();
}

Test(tls, close_and_let_go_in_any_callback)
{
	static const char *const whens[] = {"open", "bytes", "end"};
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	p = POLICY(.demand = TLS_DEMAND_NONE);
	for (unsigned i = 0; i < 2 * 3 * 6; i++) {
		plan.who = i % 2 ? &a : &b;
		plan.when = whens[i / 2 % 3];
		plan.what = (enum act)(i / 6);
		act_out(s, p);
	}
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

/* The same where the handshake fails. */
Test(tls, close_and_let_go_when_it_fails)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = SITE("expired");
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	for (unsigned i = 0; i < 12; i++) {
		plan.who = i % 2 ? &a : &b;
		plan.when = "end";
		plan.what = (enum act)(i / 2);
		plan.done = false;
		a.hook = b.hook = follow_plan;
		begin_pair(s, p, "localhost", 0);
		UNTIL(plan.done, (void)0);
		part();
	}
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

Test(tls, sites_and_policies_outlive_their_owners)
{
	struct tls_site *s;
	struct tls_policy *p;

	open_all();
	s = SITE("ecdsa");
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	begin_pair(s, p, "localhost", 0);
	tls_site_unref(s);
	tls_policy_unref(p);
	UNTIL(a.opens && b.opens, (void)0);
	cr_assert(b.facts.verified);
	part();
	close_all();
}

/* ---- limits ---- */

Test(tls, no_room)
{
	struct tls_site *s;
	struct tls *t;

	open_all_for(64); /* one page of the slab at least */
	s = SITE("ecdsa");
	struct tls *all[4096];
	unsigned n = 0;
	while (n < ARRAY_LEN(all) && (t = tls_accept(&core, s)) != NULL)
		all[n++] = t;
	cr_assert(n >= 64 && n < ARRAY_LEN(all));
	cr_assert_eq(core.conns.refused, 1);
	while (n > 0)
		tls_release(all[--n]);
	tls_site_unref(s);
	close_all();
}

#define MANY 60

static struct end servers[MANY], clients[MANY];

static bool all_settled(void)
{
	for (unsigned i = 0; i < MANY; i++)
		if (!settled(&servers[i]) || !settled(&clients[i]))
			return false;
	return true;
}

static void open_many(struct tls_site *s, struct tls_policy *p)
{
	for (unsigned i = 0; i < MANY; i++) {
		int fd[2];

		unix_pair(fd, 0);
		end_begin(&servers[i], fd[0], tls_accept(&core, s));
		end_begin(&clients[i], fd[1], tls_connect(&core, p, NULL, 0));
		tls_start(clients[i].t);
	}
}

static void close_many(void)
{
	for (unsigned i = 0; i < MANY; i++) {
		stream_close(&servers[i].s);
		stream_close(&clients[i].s);
	}
	for (unsigned i = 0; i < MANY; i++) {
		end_close(&servers[i]);
		end_close(&clients[i]);
	}
}

Test(tls, handshakes_are_put_off)
{
	struct tls_site *s;
	struct tls_policy *p;
	unsigned waited = 0;

	open_all();
	s = SITE("ecdsa");
	p = POLICY(.demand = TLS_DEMAND_NONE);
	open_many(s, p);
	UNTIL(all_settled(), waited += tls_core_waits(&core));
	cr_assert(waited >= MANY / TLS_STARTS_PER_TURN, "%u turns with some that wait", waited);
	for (unsigned i = 0; i < MANY; i++)
		cr_assert(servers[i].opens == 1 && clients[i].opens == 1);
	close_many();
	/* Closed while they wait. */
	open_many(s, p);
	turn();
	cr_assert(tls_core_waits(&core));
	for (unsigned i = 0; i < MANY; i += 3) {
		stream_close(&clients[i].s);
		let_go(&clients[i]);
		let_go(&servers[i]);
	}
	UNTIL(all_settled(), (void)0);
	close_many();
	tls_site_unref(s);
	tls_policy_unref(p);
	close_all();
}

/* ---- secrets ---- */

static unsigned lines_with(const char *path, const char *word)
{
	FILE *f = fopen(path, "r");
	char line[512];
	unsigned n = 0;

	cr_assert(f != NULL);
	while (fgets(line, sizeof(line), f) != NULL) {
		char label[64], random[130], secret[130];

		cr_assert_eq(sscanf(line, "%63s %129s %129s", label, random, secret), 3);
		cr_assert_eq(strlen(random), 64);
		cr_assert(strlen(secret) == 96 || strlen(secret) == 64);
		n += strcmp(label, word) == 0;
	}
	fclose(f);
	return n;
}

Test(tls, key_log)
{
	struct tls_keylog *log;
	struct tls_site *s;
	struct tls_policy *p;
	struct stat st;

	open_all();
	(void)unlink(CERTS "/keys.log");
	log = tls_keylog_open(CERTS "/keys.log", &err);
	cr_assert(log != NULL, "%s", err.text);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .log = log});
	p = POLICY(.ciphers = TLS12_ECDSA);
	meet(s, p, NULL, 0);
	assert_met();
	part();
	tls_policy_unref(p);
	cr_assert_eq(lines_with(CERTS "/keys.log", "CLIENT_RANDOM"), 1);
	p = POLICY(.demand = TLS_DEMAND_NONE);
	meet(s, p, NULL, 0);
	assert_met();
	part();
	tls_policy_unref(p);
	cr_assert_eq(lines_with(CERTS "/keys.log", "CLIENT_HANDSHAKE_TRAFFIC_SECRET"), 1);
	cr_assert_eq(lines_with(CERTS "/keys.log", "SERVER_HANDSHAKE_TRAFFIC_SECRET"), 1);
	cr_assert_eq(lines_with(CERTS "/keys.log", "CLIENT_TRAFFIC_SECRET_0"), 1);
	cr_assert_eq(lines_with(CERTS "/keys.log", "SERVER_TRAFFIC_SECRET_0"), 1);
	cr_assert_eq(stat(CERTS "/keys.log", &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	tls_site_unref(s);
	tls_keylog_close(log);
	cr_assert(tls_keylog_open(CERTS "/no/such/place", &err) == NULL);
	close_all();
}

/* ---- memory that runs out inside the library ---- */

static unsigned allocs_left; /* 0: no limit; 1: the next one fails */

static bool may_alloc(void)
{
	return allocs_left == 0 || --allocs_left > 0;
}

static void *some_malloc(size_t n)
{
	return may_alloc() ? malloc(n) : NULL;
}

static void some_free(void *p)
{
	free(p);
}

static void *some_realloc(void *p, size_t n)
{
	return may_alloc() ? realloc(p, n) : NULL;
}

/* Whichever allocation fails: that connection may fail, and the next one does not. */
Test(tls, one_allocation_that_fails)
{
	static const char *const ciphers[] = {NULL, TLS12_ECDSA};
	struct tls_site *s;
	unsigned failed = 0;

	wolfSSL_SetAllocators(some_malloc, some_free, some_realloc);
	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"ecdsa"}, .keys = keys});
	for (unsigned i = 0; i < 2; i++) {
		struct tls_policy *p = POLICY(.demand = TLS_DEMAND_NONE, .ciphers = ciphers[i]);

		for (unsigned n = 2; n < 500; n++) {
			begin_pair(s, p, "localhost", 1);
			allocs_left = n;
			for (unsigned k = 0; k < 8; k++)
				turn();
			if (a.opens && b.opens) {
				stream_put(&a.s, SPAN_LIT("220 hello\r\n"));
				stream_put(&b.s, SPAN_LIT("EHLO you\r\n"));
				for (unsigned k = 0; k < 3; k++)
					turn();
			}
			failed += !(a.opens && b.opens);
			bool over = allocs_left > 0;
			allocs_left = 0;
			part();
			if (over)
				break;
		}
		meet(s, p, "localhost", 1);
		assert_met();
		part();
		tls_policy_unref(p);
	}
	cr_assert(failed > 20, "%u", failed);
	tls_site_unref(s);
	close_all();
}

/* ---- OpenSSL on the other side ---- */

/* What `openssl s_client` with these options says of our server. */
static const char *client_says(struct tls_site *s, const char *options)
{
	static char command[512], said[16384];
	uint16_t port;
	int lfd = tcp_listener(&port), fd = -1;
	size_t n = 0;
	FILE *f;

	(void)snprintf(command, sizeof(command),
		"timeout 20 openssl s_client -connect 127.0.0.1:%u -servername localhost -ign_eof "
		"-CAfile " CERTS "/ca.pem -verify_return_error %s 2>&1 < /dev/null",
		port, options);
	f = popen(command, "r");
	cr_assert(f != NULL);
	fd_nonblock(lfd);
	UNTIL(fd >= 0, fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
	end_begin(&a, fd, tls_accept(&core, s));
	UNTIL(settled(&a), (void)0);
	said_why = tls_why(a.t);
	stream_put(&a.s, SPAN_LIT("220 hello\r\n"));
	stream_finish(&a.s);
	UNTIL(a.closes == 1, (void)0);
	while (n < sizeof(said) - 1) {
		size_t k = fread(said + n, 1, sizeof(said) - 1 - n, f);

		if (k == 0)
			break;
		n += k;
	}
	said[n] = '\0';
	pclose(f);
	close(lfd);
	end_close(&a);
	return said;
}

static void assert_says(struct tls_site *s, const char *options, const char *what)
{
	const char *said = client_says(s, options);

	cr_assert(strstr(said, "Verify return code: 0 (ok)") != NULL, "%s", said);
	cr_assert(strstr(said, "220 hello") != NULL, "%s", said);
	cr_assert(strstr(said, what) != NULL, "no `%s`: %s", what, said);
}

Test(tls, openssl_as_a_client)
{
	uint64_t now = (uint64_t)time(NULL);
	struct tls_site *s;

	open_all();
	keys = tls_keys_new(NULL, 3600, &err);
	s = site_of((struct site_form){.pairs = {"ecdsa", "rsa"}, .keys = keys});
	assert_says(s, "-tls1_3 -sess_out " CERTS "/s13", "New, TLSv1.3");
	assert_says(s, "-tls1_3 -sess_in " CERTS "/s13", "Reused, TLSv1.3");
	assert_says(s, "-tls1_2 -sess_out " CERTS "/s12", "New, TLSv1.2");
	assert_says(s, "-tls1_2 -sess_in " CERTS "/s12", "Reused, TLSv1.2");
	assert_says(s, "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128");
	assert_says(s, "-tls1_3 -sigalgs rsa_pss_rsae_sha256", "Peer signature type: RSA-PSS");
	assert_says(s, "-tls1_3 -curves P-384:P-256", "Server Temp Key: ECDH, secp384r1, 384 bits");
	assert_says(s, "-tls1_3 -alpn smtp", "ALPN protocol: smtp");
	/* Their keys are forgotten. */
	tls_keys_tick(keys, now + 5 * 3600);
	assert_says(s, "-tls1_3 -sess_in " CERTS "/s13", "New, TLSv1.3");
	assert_says(s, "-tls1_2 -sess_in " CERTS "/s12", "New, TLSv1.2");
	(void)client_says(s, "-tls1_1 -cipher DEFAULT:@SECLEVEL=0");
	cr_assert_eq(said_why, TLS_WHY_VERSION, "%s", tls_why_word(said_why));
	(void)client_says(s, "-tls1_3 -alpn h2");
	cr_assert_eq(said_why, TLS_WHY_ALPN);
	tls_site_unref(s);
	close_all();
}

static int dial(uint16_t port)
{
	struct ring_addr at = loop_addr(port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0 && connect(fd, &at.sa, at.len) == 0);
	fd_nonblock(fd);
	return fd;
}

static void visit(struct tls_policy *p, const char *version, unsigned times)
{
	char command[512], line[256];
	unsigned port = 0;
	FILE *f;

	(void)snprintf(command, sizeof(command),
		"(sleep 1; echo 220 hello; sleep 1) | timeout 20 openssl s_server -accept "
		"127.0.0.1:0 "
		"-naccept %u -cert " CERTS "/ecdsa.pem -cert_chain " CERTS "/ecdsa.pem "
		"-key " CERTS "/ecdsa.key -rev %s 2>&1",
		times, version);
	f = popen(command, "r");
	cr_assert(f != NULL);
	while (port == 0 && fgets(line, sizeof(line), f) != NULL)
		(void)sscanf(line, "ACCEPT 127.0.0.1:%u", &port);
	cr_assert(port != 0);
	for (unsigned i = 0; i < times; i++) {
		end_begin(&b, dial((uint16_t)port), tls_connect(&core, p, "localhost", 6));
		tls_start(b.t);
		UNTIL(settled(&b), (void)0);
		cr_assert_eq(b.opens, 1, "%s", tls_why_word(tls_why(b.t)));
		cr_assert(b.facts.verified);
		cr_assert_eq(b.facts.resumed, i > 0 && strstr(version, "1_3") != NULL);
		/* It answers each line backwards. */
		stream_put(&b.s, SPAN_LIT("abcdef\n"));
		UNTIL(b.in.n == 7 || b.ends > 0, (void)0);
		cr_assert(b.in.n == 7 && memcmp(b.in.p, "fedcba\n", 7) == 0);
		end_close(&b);
	}
	while (fgets(line, sizeof(line), f) != NULL)
		;
	pclose(f);
}

Test(tls, openssl_as_a_server)
{
	struct tls_policy *p;

	open_all();
	p = POLICY(.demand = TLS_DEMAND_VERIFY);
	visit(p, "-tls1_3", 3);
	visit(p, "-tls1_2", 2);
	tls_policy_unref(p);
	close_all();
}
