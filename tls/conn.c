/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One side of one TLS connection, as the filter of a stream. Its life:
 *
 *   made       tls_accept(), tls_connect(); the owner sets the filter
 *   held       a server collects the ClientHello, which is read before wolfSSL exists for it; a
 *              client waits for tls_start(). Both may be put off to a later turn.
 *   handshake  wolfSSL is fed whatever comes
 *   open       records in both directions
 *   over       by the peer's close_notify, or by a failure; says nothing more but last words
 *   gone       the stream has closed: what is left are the facts, until the owner lets go
 *
 * The owner may close the stream or let go in every callback. Neither frees anything while code of
 * this file is on the stack: the stream calls gone() from streams_flush(), and letting go waits for
 * that. So after each callback only filter_listens() is to be asked.
 *
 * A failure is told once, by the stream's on_end(RING_PROTO), with the reason in `why`. What was
 * emitted before (wolfSSL's alert, or ours where wolfSSL never was) leaves first.
 */
#include "tls/tls_int.h"

#define PLAIN_BYTES (HELLO_BYTES_MAX + 64) /* one record, or one ClientHello with its header */
_Static_assert(PLAIN_BYTES >= FILTER_PIECE_BYTES, "a record does not fit");

static struct tls *of(struct stream_filter *f)
{
	return CONTAINER_OF(f, struct tls, f);
}

/* ---- ends ---- */

static void drop_held(struct tls *t)
{
	free(t->held);
	t->held = NULL;
	t->held_n = 0;
	t->in = SPAN_NONE;
}

static void fail(struct tls *t, enum tls_why why)
{
	ASSERT(why != TLS_WHY_NONE);
	if (t->why == TLS_WHY_NONE)
		t->why = (uint8_t)why;
	list_remove(&t->waiting);
	drop_held(t);
	filter_over(&t->f, RING_PROTO);
}

/* Before wolfSSL: the alert is ours, and in clear. */
static void refuse(struct tls *t, enum tls_why why, uint8_t alert)
{
	const uint8_t record[] = {21, 3, 3, 0, 2, 2, alert};

	filter_emit(&t->f, span_of(record, sizeof(record)));
	fail(t, why);
}

/* What a call of wolfSSL ended with. */
static enum tls_why reason(struct tls *t, int err)
{
	WOLFSSL_ALERT_HISTORY h;

	if (t->flooded)
		return TLS_WHY_PROTOCOL;
	if (t->verdict != TLS_WHY_NONE)
		return t->verdict;
	/* OpenSSL's clients give up in clear as long as they have no key of their own (TLS 1.3),
	 * when wolfSSL takes nothing in clear any more. Only the log believes it. */
	if (t->server && !t->shaken && t->clear_alert && t->in.n >= 2) {
		t->alert = t->in.p[1];
		return why_of_alert(t->alert);
	}
	if (err != FATAL_ERROR)
		return why_of_error(err);
	memset(&h, 0, sizeof(h));
	(void)wolfSSL_get_alert_history(t->ssl, &h);
	t->alert = h.last_rx.code > 0 ? (uint8_t)h.last_rx.code : 0;
	return why_of_alert(t->alert);
}

/* In places wolfSSL gives up without an alert, and the peer would wait: any word is better. */
static void say_something(struct tls *t, int err)
{
	WOLFSSL_ALERT_HISTORY h;

	memset(&h, 0, sizeof(h));
	(void)wolfSSL_get_alert_history(t->ssl, &h);
	if (h.last_tx.code < 0 && err != FATAL_ERROR && !t->flooded)
		(void)wolfSSL_shutdown(t->ssl);
}

/* True: it only waits for more octets. Else the connection is over, and that was told. */
static bool waits(struct tls *t, int ret)
{
	int err = wolfSSL_get_error(t->ssl, ret);

	if (err == WOLFSSL_ERROR_WANT_READ && !t->flooded)
		return true;
	if (err == WOLFSSL_ERROR_ZERO_RETURN) {
		t->said_end = true;
		if (t->shaken)
			filter_over(&t->f, RING_EOF);
		else
			fail(t, TLS_WHY_ALERT);
		return false;
	}
	say_something(t, err);
	fail(t, reason(t, err));
	return false;
}

/* ---- handshake and records ---- */

/* True: done, and the owner still listens. */
static bool shake(struct tls *t)
{
	int ret = t->server ? wolfSSL_accept(t->ssl) : wolfSSL_connect(t->ssl);
	enum tls_why why;

	if (ret != WOLFSSL_SUCCESS) {
		(void)waits(t, ret);
		return false;
	}
	t->shaken = true;
	why = shake_done(t);
	if (why != TLS_WHY_NONE) {
		fail(t, why);
		return false;
	}
	filter_open(&t->f);
	return filter_listens(&t->f);
}

static void read_records(struct tls *t)
{
	uint8_t *plain = t->core->plain;
	int n;

	do {
		t->reading = true;
		n = wolfSSL_read(t->ssl, plain, (int)FILTER_PIECE_BYTES);
		t->reading = false;
		if (t->ticket)
			shake_keep(t);
		if (n <= 0) {
			(void)waits(t, n);
			return;
		}
		t->answers = 0;
		t->empty_records = 0;
		filter_deliver(&t->f, span_of(plain, (size_t)n));
		explicit_bzero(plain, (size_t)n);
	} while (filter_listens(&t->f));
}

static void feed(struct tls *t, struct span wire)
{
	t->in = wire;
	if (t->shaken || shake(t))
		read_records(t);
	ASSERT(t->in.n == 0 || !filter_listens(&t->f));
	t->in = SPAN_NONE;
}

/* ---- beginning ---- */

static bool may_start(const struct tls_core *c)
{
	return c->started < TLS_STARTS_PER_TURN && list_empty(&c->waiting);
}

static void start(struct tls *t, struct span wire)
{
	list_remove(&t->waiting);
	t->core->started++;
	t->ssl = shake_new(t);
	if (t->ssl == NULL) {
		fail(t, TLS_WHY_MEMORY);
		return;
	}
	feed(t, wire);
	drop_held(t);
}

/* False: it has failed. */
static bool hold(struct tls *t, struct span wire)
{
	uint8_t *more;

	if (wire.n == 0)
		return true;
	if (t->held_n + wire.n > HELLO_WIRE_MAX) {
		fail(t, TLS_WHY_PROTOCOL);
		return false;
	}
	/* One allocation for nearly all, and never more than one again. */
	more = t->held == NULL && wire.n <= 1024 ? malloc(1024)
	       : t->held_n + wire.n <= 1024	 ? t->held
						 : realloc(t->held, HELLO_WIRE_MAX);
	if (more == NULL) {
		fail(t, TLS_WHY_MEMORY);
		return false;
	}
	t->held = more;
	memcpy(t->held + t->held_n, wire.p, wire.n);
	t->held_n += (uint32_t)wire.n;
	return true;
}

static struct span held(const struct tls *t)
{
	return span_of(t->held, t->held_n);
}

static void keep_name(struct tls *t, struct span name)
{
	size_t n = MIN_OF(name.n, (size_t)HELLO_NAME_MAX);

	for (size_t i = 0; i < n; i++)
		t->name[i] = (char)ascii_lower(name.p[i]);
	/* A name with a NUL in it is none. */
	t->name[n] = '\0';
	if (strlen(t->name) != n)
		t->name[0] = '\0';
}

/* The ClientHello of these octets. True: it is whole and welcome. */
static bool take_hello(struct tls *t, struct span wire)
{
	struct hello h;

	switch (hello_read(wire, t->core->plain, &h)) {
	case HELLO_MORE:
		return false;
	case HELLO_NOT_TLS:
		fail(t, TLS_WHY_NOT_TLS);
		return false;
	case HELLO_BAD:
		refuse(t, TLS_WHY_PROTOCOL, h.alert);
		return false;
	case HELLO_WHOLE:
		break;
	}
	if (h.alpn && !h.smtp) {
		refuse(t, TLS_WHY_ALPN, 120); /* no_application_protocol */
		return false;
	}
	t->smtp = h.smtp;
	t->pair = site_choose(t->site, &h);
	keep_name(t, h.sni);
	return true;
}

static void server_hears(struct tls *t, struct span wire)
{
	bool whole, kept = t->held_n > 0;

	if (kept && !hold(t, wire))
		return;
	if (kept)
		wire = held(t);
	whole = take_hello(t, wire);
	if (t->why != TLS_WHY_NONE)
		return;
	if (whole && may_start(t->core)) {
		start(t, wire);
		return;
	}
	if ((kept || hold(t, wire)) && whole)
		list_push_back(&t->core->waiting, &t->waiting);
}

/* The first octets of what a server says must be a record's, an alert or the handshake. */
static bool sounds_like_tls(struct span wire)
{
	return (wire.p[0] == 21 || wire.p[0] == 22) && (wire.n < 2 || wire.p[1] == 3);
}

static void from_wire(struct stream_filter *f, struct span wire)
{
	struct tls *t = of(f);
	bool first = !t->heard;

	if (t->why != TLS_WHY_NONE || wire.n == 0)
		return;
	t->heard = true;
	if (!t->server && first && !sounds_like_tls(wire))
		fail(t, TLS_WHY_NOT_TLS);
	else if (t->ssl != NULL)
		feed(t, wire);
	else if (t->server && !list_linked(&t->waiting))
		server_hears(t, wire);
	else
		(void)hold(t, wire);
}

/* Also from streams_flush() and tls_core_turn(): the stream may be on its way out. */
static void start_late(struct tls *t)
{
	if (t->ssl == NULL && t->why == TLS_WHY_NONE && filter_listens(&t->f))
		start(t, held(t));
}

static void start_now(struct deferred *d)
{
	struct tls *t = CONTAINER_OF(d, struct tls, start);

	if (may_start(t->core))
		start_late(t);
	else
		list_push_back(&t->core->waiting, &t->waiting);
}

void tls_start(struct tls *t)
{
	ASSERT(!t->server && t->f.s != NULL && !t->gone && t->ssl == NULL);
	streams_defer(t->core->streams, &t->start);
}

/* ---- the other direction ---- */

static bool to_wire(struct stream_filter *f, struct span plain)
{
	struct tls *t = of(f);
	int ret;

	if (t->why != TLS_WHY_NONE)
		return false;
	ret = wolfSSL_write(t->ssl, plain.p, (int)plain.n);
	if (ret == (int)plain.n)
		return true;
	t->why = (uint8_t)reason(t, wolfSSL_get_error(t->ssl, ret));
	return false;
}

static void finish(struct stream_filter *f)
{
	struct tls *t = of(f);

	if (t->ssl != NULL && t->why == TLS_WHY_NONE)
		(void)wolfSSL_shutdown(t->ssl); /* queues close_notify; the peer's is not awaited */
}

/* ---- life ---- */

static void give_back(struct tls *t)
{
	struct tls_core *c = t->core;

	ASSERT(t->ssl == NULL && !list_linked(&t->waiting) && !list_linked(&t->start.node));
	slab_put(&c->conns, t);
}

static void let_go(struct tls *t)
{
	list_remove(&t->waiting);
	list_remove(&t->start.node);
	drop_held(t);
	wolfSSL_free(t->ssl);
	t->ssl = NULL;
	tls_site_unref(t->site);
	tls_policy_unref(t->policy);
	t->site = NULL;
	t->policy = NULL;
	t->pair = NULL;
}

static void gone(struct stream_filter *f)
{
	struct tls *t = of(f);

	let_go(t);
	t->gone = true;
	if (t->released)
		give_back(t);
}

void tls_release(struct tls *t)
{
	ASSERT(!t->released);
	t->released = true;
	if (t->f.s == NULL)
		let_go(t);
	else if (!t->gone)
		return;
	give_back(t);
}

static const struct stream_filter_kind kind = {
	.from_wire = from_wire,
	.to_wire = to_wire,
	.finish = finish,
	.gone = gone,
};

static struct tls *make(struct tls_core *c)
{
	struct tls *t = slab_get(&c->conns);

	if (t == NULL)
		return NULL;
	memset(t, 0, sizeof(*t));
	t->f.kind = &kind;
	t->core = c;
	t->version = t->cipher = t->group = "";
	list_init(&t->waiting);
	deferred_init(&t->start, start_now);
	return t;
}

struct tls *tls_accept(struct tls_core *c, struct tls_site *site)
{
	struct tls *t = make(c);

	if (t == NULL)
		return NULL;
	t->server = true;
	t->site = tls_site_ref(site);
	return t;
}

struct tls *tls_connect(
	struct tls_core *c, struct tls_policy *policy, const char *name, uint64_t key)
{
	struct tls *t = make(c);

	if (t == NULL)
		return NULL;
	t->policy = tls_policy_ref(policy);
	t->key = key;
	keep_name(t, span_str(name));
	return t;
}

struct stream_filter *tls_filter(struct tls *t)
{
	return &t->f;
}

/* ---- what is known ---- */

enum tls_why tls_why(const struct tls *t)
{
	return t->why;
}

unsigned tls_alert(const struct tls *t)
{
	return t->alert;
}

bool tls_said_end(const struct tls *t)
{
	return t->said_end;
}

void tls_facts(const struct tls *t, struct tls_facts *out)
{
	*out = (struct tls_facts){
		.version = t->version,
		.cipher = t->cipher,
		.bits = t->bits,
		.group = t->group,
		.sni = t->server ? t->name : "",
		.resumed = t->resumed,
		.certified = t->peer.certified,
		.verified = t->peer.verified,
		.doubt = t->peer.doubt,
		.subject = t->peer.subject,
		.sha256 = t->peer.certified ? t->peer.sha256 : NULL,
	};
}

/* ---- a core's ---- */

bool tls_core_init(struct tls_core *c, struct streams *ss, uint32_t conns_max)
{
	memset(c, 0, sizeof(*c));
	c->streams = ss;
	list_init(&c->waiting);
	c->plain = malloc(PLAIN_BYTES);
	c->resumes = resumes_new();
	if (c->plain != NULL && c->resumes != NULL &&
		slab_init(&c->conns, "tls", sizeof(struct tls), conns_max))
		return true;
	resumes_free(c->resumes);
	free(c->plain);
	return false;
}

void tls_core_fini(struct tls_core *c)
{
	ASSERT(list_empty(&c->waiting));
	slab_fini(&c->conns);
	resumes_free(c->resumes);
	explicit_bzero(c->plain, PLAIN_BYTES);
	free(c->plain);
}

/* Those that begin in ring_turn() count as well, so that all of a turn stay within the limit; and
 * they stand behind those that wait. */
void tls_core_turn(struct tls_core *c)
{
	struct list *n;

	while (c->started < TLS_STARTS_PER_TURN && (n = list_pop_front(&c->waiting)) != NULL)
		start_late(CONTAINER_OF(n, struct tls, waiting));
	c->started = 0;
}
