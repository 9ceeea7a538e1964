/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Session tickets (RFC 5077, RFC 8446 4.6.1) under keys of the process. wolfSSL's own keys are of
 * one context each, and random: a ticket would be good at one site of one process only.
 *
 * A ticket is sealed with AES-256-GCM; its key has a name, and the host that the client named is
 * authenticated along, since a session must not be resumed for another (RFC 6066 3). Three keys are
 * good: the newest seals, the two before it open. tls_keys_tick() makes the next one, of one
 * thread; workers read under a lock that is written once in hours, for the time of a copy. The keys
 * lie in pages of their own that are neither swapped out nor dumped, where the system allows that.
 *
 * A site that asks for client certificates has no tickets: resuming would go past them.
 */
#include "tls/tls_int.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <wolfssl/wolfcrypt/aes.h>
#include <wolfssl/wolfcrypt/coding.h>
#include <wolfssl/wolfcrypt/hmac.h>

#define KEY_BYTES 32
#define ID_BYTES 4
#define NONCE_BYTES 12
#define TAG_BYTES 16
_Static_assert(ID_BYTES + NONCE_BYTES == WOLFSSL_TICKET_NAME_SZ, "the field of the name");
_Static_assert(TAG_BYTES == WOLFSSL_TICKET_IV_SZ, "the field of the nonce");
#define KEYS 3
#define SECRET_BYTES_MIN 80
#define SECRET_BYTES_MAX 4096
#define LIFE_S_MAX (7u * 24 * 3600) /* RFC 8446 4.6.1 */

struct ticket_key {
	uint8_t id[ID_BYTES];
	uint8_t key[KEY_BYTES];
};

struct tls_keys {
	pthread_rwlock_t lock;	      /* of `keys` and `slot` */
	struct ticket_key keys[KEYS]; /* newest first */
	uint64_t slot;		      /* of keys[0]: time / rotate_s */
	/* From here on: of the thread that ticks. */
	uint32_t rotate_s;
	size_t secret_n; /* 0: no file, keys are random */
	WC_RNG rng;	 /* then */
	uint8_t secret[SECRET_BYTES_MAX];
};

/* ---- making keys ---- */

static bool derive(const struct tls_keys *k, uint64_t slot, struct ticket_key *out)
{
	uint8_t info[sizeof("ringpost ticket key") + sizeof(slot)] = "ringpost ticket key";

	for (size_t i = 0; i < sizeof(slot); i++)
		info[sizeof(info) - 1 - i] = (uint8_t)(slot >> (8 * i));
	return wc_HKDF(WC_SHA256, k->secret, (word32)k->secret_n, NULL, 0, info, sizeof(info),
		       (byte *)out, sizeof(*out)) == 0;
}

static bool make_key(struct tls_keys *k, uint64_t slot, struct ticket_key *out)
{
	if (k->secret_n > 0)
		return derive(k, slot, out);
	return wc_RNG_GenerateBlock(&k->rng, (byte *)out, sizeof(*out)) == 0;
}

/* The keys of `slot` and of those before it. What there is stays, as far as it is still good. */
static bool make_keys(struct tls_keys *k, uint64_t slot, struct ticket_key *out)
{
	uint64_t by = slot - k->slot;

	for (uint64_t i = 0; i < KEYS; i++) {
		bool known = k->secret_n == 0 && slot >= k->slot && i >= by;

		if (known)
			out[i] = k->keys[i - by];
		else if (!make_key(k, slot - i, &out[i]))
			return false;
	}
	return true;
}

void tls_keys_tick(struct tls_keys *k, uint64_t now_s)
{
	uint64_t slot = now_s / k->rotate_s;
	struct ticket_key fresh[KEYS];

	/* A clock that was put back makes no random keys anew; those of a file follow it. */
	if (slot == k->slot || (k->secret_n == 0 && slot < k->slot))
		return;
	if (make_keys(k, slot, fresh)) {
		pthread_rwlock_wrlock(&k->lock);
		memcpy(k->keys, fresh, sizeof(fresh));
		k->slot = slot;
		pthread_rwlock_unlock(&k->lock);
	}
	explicit_bzero(fresh, sizeof(fresh));
}

/* ---- life ---- */

static bool is_text(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strchr("\r\n\t +/=", p[i]) == NULL && !(p[i] >= '0' && p[i] <= '9') &&
			!(p[i] >= 'A' && p[i] <= 'Z') && !(p[i] >= 'a' && p[i] <= 'z'))
			return false;
	return true;
}

static bool take_secret(
	struct tls_keys *k, const char *file, const uint8_t *p, size_t n, struct tls_error *e)
{
	word32 out = sizeof(k->secret);

	if (!is_text(p, n)) {
		memcpy(k->secret, p, n);
		out = (word32)n;
	} else if (Base64_Decode(p, (word32)n, k->secret, &out) != 0) {
		return ctx_error(e, file, "is text, but no base64");
	}
	if (out < SECRET_BYTES_MIN)
		return ctx_error(
			e, file, "has less than %u octets of secret", (unsigned)SECRET_BYTES_MIN);
	k->secret_n = out;
	return true;
}

static bool read_secret(struct tls_keys *k, const char *file, struct tls_error *e)
{
	struct stat st;
	size_t n;
	uint8_t *p;
	bool ok;

	if (stat(file, &st) == 0 && (st.st_mode & S_IRWXO) != 0)
		return ctx_error(e, file, "may be used by everybody: chmod o= it");
	p = ctx_read_file(file, SECRET_BYTES_MAX, &n, e);
	if (p == NULL)
		return false;
	ok = take_secret(k, file, p, n, e);
	ctx_free_secret(p, n);
	return ok;
}

static struct tls_keys *map_keys(void)
{
	struct tls_keys *k =
		mmap(NULL, sizeof(*k), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (k == MAP_FAILED)
		return NULL;
	/* Each where it is allowed: RLIMIT_MEMLOCK may be small. */
	(void)mlock(k, sizeof(*k));
	(void)madvise(k, sizeof(*k), MADV_DONTDUMP);
	return k;
}

struct tls_keys *tls_keys_new(const char *file, uint32_t rotate_s, struct tls_error *e)
{
	struct tls_keys *k = map_keys();
	struct timespec now;

	ASSERT(rotate_s > 0);
	if (k == NULL || wc_InitRng(&k->rng) != 0) {
		(void)ctx_error(e, NULL, "no memory or no random numbers for ticket keys");
		if (k != NULL)
			munmap(k, sizeof(*k));
		return NULL;
	}
	pthread_rwlock_init(&k->lock, NULL);
	k->rotate_s = rotate_s;
	clock_gettime(CLOCK_REALTIME, &now);
	if (file == NULL || read_secret(k, file, e)) {
		k->slot = (uint64_t)now.tv_sec / rotate_s + KEYS; /* nothing is known yet */
		if (make_keys(k, k->slot - KEYS, k->keys)) {
			k->slot -= KEYS;
			return k;
		}
		(void)ctx_error(e, file, "ticket keys cannot be made of it");
	}
	tls_keys_free(k);
	return NULL;
}

void tls_keys_free(struct tls_keys *k)
{
	if (k == NULL)
		return;
	pthread_rwlock_destroy(&k->lock);
	wc_FreeRng(&k->rng);
	explicit_bzero(k, sizeof(*k));
	munmap(k, sizeof(*k));
}

/* ---- tickets ---- */

/* wolfSSL's ticket is name, nonce, length, octets, tag; the tag is looked for behind as many octets
 * as the length says, which is a stranger's word and can point behind the end of it all. So nothing
 * of ours is there: the key's id and the nonce share the field of the name, and the tag is in that
 * of the nonce. The place behind must only not be zero. */
struct sealing {
	struct ticket_key key;
	uint8_t *id, *nonce, *tag;
	const uint8_t *host; /* authenticated along */
	word32 host_n;
	uint8_t *octets;
	word32 n;
};

static bool run(const struct sealing *s, bool seal)
{
	Aes aes;
	int ret;

	if (wc_AesInit(&aes, NULL, INVALID_DEVID) != 0)
		return false;
	ret = wc_AesGcmSetKey(&aes, s->key.key, KEY_BYTES);
	if (ret == 0 && seal)
		ret = wc_AesGcmEncrypt(&aes, s->octets, s->octets, s->n, s->nonce, NONCE_BYTES,
			s->tag, TAG_BYTES, s->host, s->host_n);
	else if (ret == 0)
		ret = wc_AesGcmDecrypt(&aes, s->octets, s->octets, s->n, s->nonce, NONCE_BYTES,
			s->tag, TAG_BYTES, s->host, s->host_n);
	wc_AesFree(&aes);
	return ret == 0;
}

/* The key of that id, newest first; NULL: the newest. Returns how old it is, or -1. */
static int find_key(struct tls_keys *k, const uint8_t *id, struct ticket_key *out)
{
	int found = -1;

	pthread_rwlock_rdlock(&k->lock);
	for (int i = 0; i < KEYS && found < 0; i++) {
		if (id != NULL && memcmp(k->keys[i].id, id, ID_BYTES) != 0)
			continue;
		*out = k->keys[i];
		found = i;
	}
	pthread_rwlock_unlock(&k->lock);
	return found;
}

static bool seal_ticket(struct tls_keys *k, WOLFSSL *ssl, struct sealing *s)
{
	(void)find_key(k, NULL, &s->key);
	memcpy(s->id, s->key.id, ID_BYTES);
	return wc_RNG_GenerateBlock(wolfSSL_GetRNG(ssl), s->nonce, NONCE_BYTES) == 0 &&
	       run(s, true);
}

/* Under 1.2 a ticket of an old key is renewed when we say so. 1.3 sends a new one with every
 * handshake, and CREATE would refuse the old one there. */
static int open_ticket(struct tls_keys *k, WOLFSSL *ssl, struct sealing *s)
{
	int age = find_key(k, s->id, &s->key);

	if (age < 0 || !run(s, false))
		return WOLFSSL_TICKET_RET_REJECT;
	if (age == 0 || wolfSSL_version(ssl) >= TLS1_3_VERSION)
		return WOLFSSL_TICKET_RET_OK;
	return WOLFSSL_TICKET_RET_CREATE;
}

static int on_ticket(WOLFSSL *ssl, unsigned char *name, unsigned char *iv, unsigned char *mac,
	int enc, unsigned char *ticket, int n, int *out_n, void *arg)
{
	const struct tls *t = wolfSSL_GetIOReadCtx(ssl);
	struct sealing s = {.id = name,
		.nonce = name + ID_BYTES,
		.tag = iv,
		.host = (const uint8_t *)t->name,
		.host_n = (word32)strlen(t->name),
		.octets = ticket,
		.n = (word32)n};
	int ret = WOLFSSL_TICKET_RET_REJECT;

	if (arg == NULL || n <= 0)
		return ret;
	*out_n = n;
	if (!enc) {
		ret = open_ticket(arg, ssl, &s);
	} else if (seal_ticket(arg, ssl, &s) &&
		   wc_RNG_GenerateBlock(wolfSSL_GetRNG(ssl), mac, WOLFSSL_TICKET_MAC_SZ) == 0) {
		ret = WOLFSSL_TICKET_RET_OK;
	}
	explicit_bzero(&s.key, sizeof(s.key));
	return ret;
}

void keys_attach(struct tls_keys *k, WOLFSSL_CTX *ctx)
{
	uint64_t life;

	(void)wolfSSL_CTX_set_TicketEncCb(ctx, on_ticket);
	(void)wolfSSL_CTX_set_TicketEncCtx(ctx, k);
	if (k == NULL) {
		(void)wolfSSL_CTX_NoTicketTLSv12(ctx);
		(void)wolfSSL_CTX_no_ticket_TLSv13(ctx);
		return;
	}
	/* One that was made at the end of its key's time can be opened for as long. */
	life = MIN_OF((uint64_t)k->rotate_s * (KEYS - 1), (uint64_t)LIFE_S_MAX);
	(void)wolfSSL_CTX_set_TicketHint(ctx, (int)life);
	(void)wolfSSL_CTX_set_timeout(ctx, (unsigned)life);
}
