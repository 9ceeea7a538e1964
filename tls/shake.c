/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * wolfSSL of one connection: made, tied to its struct tls, and asked at the end of the handshake
 * for what is to be known. It reads from memory (t->in) and writes to the stream's list of wire
 * octets, which takes everything, so it never waits to write.
 */
#include "tls/tls_int.h"

#include <arpa/inet.h>

/* Answers (to key updates, to attempts to renegotiate) without a single octet for us between them.
 * Each makes us send, and nothing else bounds how often. */
#define ANSWERS_MAX 32
/* Such a peer may also leave them unread: beside what a stream makes ahead of a send, this much. */
#define ANSWERS_WAITING_BYTES (96u << 10)
/* Records in a row that bring nothing (empty ones, key updates that want no answer): each costs a
 * derivation of keys at most, and has 27 octets. */
#define EMPTY_RECORDS_MAX 256
#define RECORD_HEADER_BYTES 5
/* What a client may say to a HelloRetryRequest. The look into the first hello does not see it, and
 * the library's work is quadratic in the number of its key shares: this bounds it at about 2 ms. */
#define AGAIN_BYTES_MAX 4096

/* The random of a ServerHello that is a HelloRetryRequest (RFC 8446 4.1.3). */
static const uint8_t hello_retry[32] = {0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D,
	0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91, 0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07,
	0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C};

/* ---- I/O ---- */

int shake_recv(WOLFSSL *ssl, char *p, int n, void *arg)
{
	struct tls *t = arg;
	size_t take;

	if (t == NULL || t->flooded)
		return WOLFSSL_CBIO_ERR_GENERAL;
	take = MIN_OF((size_t)n, t->in.n);
	if (take == 0)
		return WOLFSSL_CBIO_ERR_WANT_READ;
	/* It asks for a header, then for what that announces. */
	if ((t->again > 0 && take >= t->again) || (t->reading && n == RECORD_HEADER_BYTES &&
							  ++t->empty_records > EMPTY_RECORDS_MAX)) {
		t->flooded = true;
		return WOLFSSL_CBIO_ERR_GENERAL;
	}
	if (t->again > 0)
		t->again -= (uint16_t)take;
	memcpy(p, t->in.p, take);
	t->in = span_drop(t->in, take);
	/* The header of an alert in clear, see reason(). */
	t->clear_alert = take == RECORD_HEADER_BYTES && p[0] == 21 && p[3] == 0 && p[4] == 2;
	return (int)take;
}

int shake_send(WOLFSSL *ssl, char *p, int n, void *arg)
{
	struct tls *t = arg;

	if (t == NULL)
		return WOLFSSL_CBIO_ERR_GENERAL;
	/* A handshake record with a ServerHello; the real one ends the bound. */
	if (t->server && !t->shaken && n >= 43 && p[0] == 22 && p[5] == 2)
		t->again =
			memcmp(p + 11, hello_retry, sizeof(hello_retry)) == 0 ? AGAIN_BYTES_MAX : 0;
	filter_emit(&t->f, span_of(p, (size_t)n));
	if (t->reading && (++t->answers > ANSWERS_MAX || t->f.wire_bytes > ANSWERS_WAITING_BYTES))
		t->flooded = true;
	return n;
}

/* ---- making ---- */

static int on_session_ticket(WOLFSSL *ssl, const unsigned char *p, int n, void *arg)
{
	struct tls *t = arg;

	t->ticket = true;
	return 0;
}

static bool is_address(const char *name)
{
	struct in6_addr a;

	return inet_pton(AF_INET, name, &a) == 1 || inet_pton(AF_INET6, name, &a) == 1;
}

static int no_secret(WOLFSSL *ssl, void *secret, int *n, void *arg)
{
	return -1;
}

/* False: the session cannot be used, and `ssl` neither. */
static bool use_session(struct tls *t, WOLFSSL *ssl, const struct resume *r)
{
	bool ok = wolfSSL_set_session(ssl, r->session) == WOLFSSL_SUCCESS;

	wolfSSL_SESSION_free(r->session);
	if (!ok)
		return false;
	/* Leaves the session's number out, as if the secret were to come from elsewhere. With it
	 * wolfSSL takes a server for an attacker that turns out not to resume but to speak 1.2
	 * (5.7.2: OUT_OF_ORDER_E). */
	(void)wolfSSL_set_session_secret_cb(ssl, no_secret, NULL);
	(void)wolfSSL_set_session_secret_cb(ssl, NULL, NULL);
	t->chained = r->chained + 1;
	t->peer = r->peer;
	return true;
}

static WOLFSSL *new_client(struct tls *t)
{
	WOLFSSL *ssl = wolfSSL_new(t->policy->ctx);
	struct resume r;

	if (ssl == NULL)
		return NULL;
	if (t->policy->only_1_2)
		(void)wolfSSL_set_options(ssl, WOLFSSL_OP_NO_TLSv1_3);
	if (t->key != 0 && resumes_take(t->core->resumes, t->key, t->policy->serial, &r) &&
		!use_session(t, ssl, &r)) {
		wolfSSL_free(ssl);
		return new_client(t);
	}
	wolfSSL_set_SessionTicket_cb(ssl, on_session_ticket, t);
	/* RFC 6066 3: no addresses. */
	if (t->name[0] == '\0' || is_address(t->name) ||
		wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, t->name, (word16)strlen(t->name)) ==
			WOLFSSL_SUCCESS)
		return ssl;
	wolfSSL_free(ssl);
	return NULL;
}

static WOLFSSL *new_server(struct tls *t)
{
	char smtp[] = "smtp";
	WOLFSSL *ssl = wolfSSL_new(t->pair->ctx);

	if (ssl == NULL || !t->smtp ||
		wolfSSL_UseALPN(ssl, smtp, sizeof(smtp) - 1, WOLFSSL_ALPN_FAILED_ON_MISMATCH) ==
			WOLFSSL_SUCCESS)
		return ssl;
	wolfSSL_free(ssl);
	return NULL;
}

WOLFSSL *shake_new(struct tls *t)
{
	WOLFSSL *ssl = t->server ? new_server(t) : new_client(t);

	if (ssl == NULL)
		return NULL;
	wolfSSL_SetIOReadCtx(ssl, t);
	wolfSSL_SetIOWriteCtx(ssl, t);
	wolfSSL_SetCertCbCtx(ssl, t);
	keylog_attach(t->server ? t->site->log : t->policy->log, ssl);
	return ssl;
}

/* ---- done ---- */

/* As the configuration names them. */
static const char *group_word(const char *name)
{
	static const char *const words[][2] = {
		{"SECP256R1", "P-256"}, {"SECP384R1", "P-384"}, {"SECP521R1", "P-521"}};

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (name != NULL && strcmp(words[i][0], name) == 0)
			return words[i][1];
	return name != NULL ? name : "";
}

static uint16_t bits_of(const char *cipher)
{
	return strstr(cipher, "AES_128") != NULL ? 128 : 256;
}

enum tls_why shake_done(struct tls *t)
{
	int suite;

	t->resumed = wolfSSL_session_reused(t->ssl) == 1;
	t->version = wolfSSL_get_version(t->ssl);
	suite = wolfSSL_get_current_cipher_suite(t->ssl);
	t->cipher = wolfSSL_get_cipher_name_iana_from_suite((byte)(suite >> 8), (byte)suite);
	if (t->cipher == NULL)
		t->cipher = "";
	t->bits = bits_of(t->cipher);
	t->group = group_word(wolfSSL_get_curve_name(t->ssl));
	if (t->server)
		return TLS_WHY_NONE;
	if (!t->resumed)
		t->chained = 0;
	/* It was asked in the handshake, now or in the one that is resumed. */
	if (!t->resumed && !t->accepted)
		return TLS_WHY_BAD_CERTIFICATE;
	return TLS_WHY_NONE;
}

void shake_keep(struct tls *t)
{
	struct resume r = {.chained = t->chained, .peer = t->peer};

	t->ticket = false;
	if (t->key == 0 || t->chained >= RESUME_CHAIN_MAX)
		return;
	r.session = wolfSSL_get1_session(t->ssl);
	if (r.session != NULL)
		resumes_put(t->core->resumes, t->key, t->policy->serial, &r);
}
