/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See veil.h. Two contexts of wolfSSL for the whole process, made on first use; one session each
 * veil. One cipher suite: TLS_AES_128_GCM_SHA256, which is what see.c reads.
 */
#include "tests/sim/veil.h"

#include "tests/sim/actor.h"
#include "tests/sim/testcert.h"

#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#define RECORD_BYTES 16384u
#define OUT_BYTES_MAX (20u << 10)
#define AHEAD_BYTES (64u << 10)
#define FOUL_RATE 60
#define RENEW_RATE 20

struct veil {
	struct sim_kernel *k;
	struct tape *t;
	int far;
	struct veil_conf conf;
	WOLFSSL *ssl;
	bool open, failed, heard_bye, said_bye, fouled;
	struct octets in, out, plain;
	size_t in_at, out_at, plain_at;
	uint8_t foul; /* enum veil_foul */
	uint32_t foul_at, flights;
};

/* ---- between wolfSSL and the connection ---- */

static int give_ssl(WOLFSSL *ssl, char *buf, int n, void *arg)
{
	struct veil *v = arg;
	size_t k = MIN_OF((size_t)n, v->in.n - v->in_at);

	if (k == 0)
		return WOLFSSL_CBIO_ERR_WANT_READ;
	memcpy(buf, v->in.p + v->in_at, k);
	v->in_at += k;
	return (int)k;
}

/* What the record keeps of it. */
static struct rec_veil *noted(struct veil *v)
{
	struct rec_veil **r = far_veil(v->k, v->far);

	if (!*r)
		*r = calloc(1, sizeof(**r));
	ASSERT(*r);
	return *r;
}

static void note(struct veil *v)
{
	struct rec_veil *r = noted(v);

	r->server = v->conf.server;
	r->fouled = r->injected = v->conf.fouled;
	r->in_clear = v->conf.in_clear;
	r->out_clear = v->conf.out_clear;
	r->in_kept = v->conf.in_kept;
	r->out_kept = v->conf.out_kept;
}

static void spoil(struct veil *v, char *buf, int n)
{
	static const uint8_t alert[] = {21, 3, 3, 0, 2, 2, 40};
	static const uint8_t again[] = {22, 3, 3, 0, 4, 1, 0, 0, 0};

	switch ((enum veil_foul)v->foul) {
	case FOUL_CLEAR:
		octets_str(&v->out, "NOOP in-clear\r\n");
		octets_add(&v->out, buf, (size_t)n);
		break;
	case FOUL_ALERT:
		octets_add(&v->out, buf, (size_t)n);
		octets_add(&v->out, alert, sizeof(alert));
		break;
	case FOUL_RENEGOTIATE:
		octets_add(&v->out, buf, (size_t)n);
		octets_add(&v->out, again, sizeof(again));
		break;
	default:
		octets_add(&v->out, buf, (size_t)n);
		v->out.p[v->out.n - 1 - tape_pick(v->t, (uint32_t)n)] ^= 1u << tape_pick(v->t, 8);
	}
	v->fouled = noted(v)->fouled = true;
}

static int take_ssl(WOLFSSL *ssl, char *buf, int n, void *arg)
{
	struct veil *v = arg;

	if (v->foul != FOUL_NONE && !v->fouled && v->flights++ == v->foul_at)
		spoil(v, buf, n);
	else
		octets_add(&v->out, buf, (size_t)n);
	return n;
}

/* ---- secrets ---- */

static int keep_secret(WOLFSSL *ssl, int id, const unsigned char *secret, int n, void *arg)
{
	static const int slots[] = {[CLIENT_HANDSHAKE_TRAFFIC_SECRET] = 1 + VEIL_CLIENT_HANDSHAKE,
		[SERVER_HANDSHAKE_TRAFFIC_SECRET] = 1 + VEIL_SERVER_HANDSHAKE,
		[CLIENT_TRAFFIC_SECRET] = 1 + VEIL_CLIENT,
		[SERVER_TRAFFIC_SECRET] = 1 + VEIL_SERVER,
		[EXPORTER_SECRET] = 0};
	struct rec_veil *r = noted(arg);
	int slot = id >= 0 && (size_t)id < ARRAY_LEN(slots) ? slots[id] : 0;

	if (slot == 0 || n != VEIL_SECRET_BYTES)
		return 0;
	memcpy(r->secret[slot - 1], secret, VEIL_SECRET_BYTES);
	r->has[slot - 1] = true;
	return 0;
}

/* ---- contexts ---- */

static WOLFSSL_CTX *make_ctx(bool server)
{
	WOLFSSL_CTX *c =
		wolfSSL_CTX_new(server ? wolfTLSv1_3_server_method() : wolfTLSv1_3_client_method());
	int ok = c != NULL;

	ok = ok && wolfSSL_CTX_set_cipher_list(c, "TLS13-AES128-GCM-SHA256") == WOLFSSL_SUCCESS;
	if (server) {
		ok = ok &&
		     wolfSSL_CTX_use_certificate_chain_buffer(c, (const unsigned char *)veil_cert,
			     (long)strlen(veil_cert)) == WOLFSSL_SUCCESS;
		ok = ok && wolfSSL_CTX_use_PrivateKey_buffer(c, (const unsigned char *)veil_key,
				   (long)strlen(veil_key), WOLFSSL_FILETYPE_PEM) == WOLFSSL_SUCCESS;
	}
	ASSERT(ok);
	wolfSSL_CTX_set_verify(c, WOLFSSL_VERIFY_NONE, NULL);
	wolfSSL_CTX_set_session_cache_mode(c, WOLFSSL_SESS_CACHE_OFF);
	wolfSSL_CTX_SetIORecv(c, give_ssl);
	wolfSSL_CTX_SetIOSend(c, take_ssl);
	return c;
}

static WOLFSSL_CTX *ctx_of(bool server)
{
	static WOLFSSL_CTX *ctx[2];

	if (!ctx[server]) {
		int done = wolfSSL_Init();

		ASSERT(done == WOLFSSL_SUCCESS);
		ctx[server] = make_ctx(server);
	}
	return ctx[server];
}

/* ---- life ---- */

/* Hands what has come to wolfSSL. */
static void advance(struct veil *v)
{
	uint8_t piece[4096];
	int n = 0;

	if (v->failed)
		return;
	if (!v->open) {
		n = v->conf.server ? wolfSSL_accept(v->ssl) : wolfSSL_connect(v->ssl);
		v->open = n == WOLFSSL_SUCCESS;
		noted(v)->open = v->open;
	}
	while (v->open && !v->heard_bye && (n = wolfSSL_read(v->ssl, piece, sizeof(piece))) > 0)
		octets_add(&v->plain, piece, (size_t)n);
	if (v->heard_bye || n > 0)
		return;
	n = wolfSSL_get_error(v->ssl, n);
	if (n == WOLFSSL_ERROR_ZERO_RETURN)
		v->heard_bye = true;
	else if (n != WOLFSSL_ERROR_WANT_READ)
		v->failed = true;
}

struct veil *veil_new(struct sim_kernel *k, struct tape *t, int far, const struct veil_conf *conf)
{
	struct veil *v = calloc(1, sizeof(*v));

	ASSERT(v);
	v->k = k;
	v->t = t;
	v->far = far;
	v->conf = *conf;
	if (conf->fouls && tape_chance(t, FOUL_RATE)) {
		v->foul = (uint8_t)(1 + tape_pick(t, FOUL_COUNT - 1));
		v->foul_at = tape_small(t, 12);
	}
	note(v);
	v->ssl = wolfSSL_new(ctx_of(conf->server));
	ASSERT(v->ssl);
	wolfSSL_SetIOReadCtx(v->ssl, v);
	wolfSSL_SetIOWriteCtx(v->ssl, v);
	wolfSSL_set_tls13_secret_cb(v->ssl, keep_secret, v);
	advance(v);
	return v;
}

void veil_free(struct veil *v)
{
	if (!v)
		return;
	wolfSSL_free(v->ssl);
	octets_free(&v->in);
	octets_free(&v->out);
	octets_free(&v->plain);
	free(v);
}

void veil_calm(struct veil *v)
{
	v->foul = FOUL_NONE;
	v->conf.renews = false;
}

/* ---- the connection ---- */

bool veil_may_take(const struct veil *v)
{
	return veil_readable(v) < AHEAD_BYTES && far_readable(v->k, v->far) > 0;
}

bool veil_may_give(const struct veil *v)
{
	return v->out_at < v->out.n && far_room(v->k, v->far) > 0;
}

static size_t how_much(const struct veil *v, size_t n, bool all)
{
	return all ? n : actor_cut(v->t, n);
}

void veil_take(struct veil *v, bool all)
{
	uint8_t piece[4096];
	size_t n = MIN_OF(far_readable(v->k, v->far), sizeof(piece));

	n = far_recv(v->k, v->far, piece, how_much(v, n, all));
	if (v->in_at == v->in.n)
		v->in_at = v->in.n = 0;
	octets_add(&v->in, piece, n);
	advance(v);
}

void veil_give(struct veil *v, bool all)
{
	size_t n = MIN_OF(v->out.n - v->out_at, far_room(v->k, v->far));

	n = how_much(v, n, all);
	v->out_at += n ? far_send(v->k, v->far, v->out.p + v->out_at, n) : 0;
	if (v->out_at == v->out.n)
		v->out_at = v->out.n = 0;
}

/* ---- plain octets ---- */

size_t veil_room(const struct veil *v)
{
	if (!v->open || v->failed || v->said_bye || v->out.n - v->out_at > OUT_BYTES_MAX)
		return 0;
	return RECORD_BYTES;
}

size_t veil_send(struct veil *v, const void *p, size_t n)
{
	n = MIN_OF(n, veil_room(v));
	if (n == 0)
		return 0;
	if (v->conf.renews && tape_chance(v->t, RENEW_RATE))
		(void)wolfSSL_update_keys(v->ssl);
	if (wolfSSL_write(v->ssl, p, (int)n) == (int)n)
		return n;
	v->failed = true;
	return 0;
}

size_t veil_readable(const struct veil *v)
{
	return v->plain.n - v->plain_at;
}

size_t veil_recv(struct veil *v, void *p, size_t n)
{
	n = MIN_OF(n, veil_readable(v));
	if (n)
		memcpy(p, v->plain.p + v->plain_at, n);
	v->plain_at += n;
	if (v->plain_at == v->plain.n)
		v->plain_at = v->plain.n = 0;
	return n;
}

bool veil_open(const struct veil *v)
{
	return v->open;
}

bool veil_over(const struct veil *v)
{
	if (veil_readable(v) > 0)
		return false;
	return v->failed || v->heard_bye || far_eof(v->k, v->far);
}

void veil_bye(struct veil *v)
{
	if (v->said_bye || v->failed)
		return;
	v->said_bye = true;
	if (v->open)
		(void)wolfSSL_shutdown(v->ssl);
}

bool veil_idle(const struct veil *v)
{
	return v->out_at == v->out.n;
}

const char veil_cert[] = TEST_CERT;
const char veil_key[] = TEST_KEY;
