/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What sites and policies have in common when they are made: a WOLFSSL_CTX with its versions, lists
 * and certificate. Away from the rings: files are read, and it takes milliseconds. Every failure
 * names the file or the word at fault. Private keys are zeroed where they were read.
 */
#include "tls/tls_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wolfssl/wolfcrypt/asn_public.h>

#define PEM_BYTES_MAX (1u << 20)

bool ctx_error(struct tls_error *e, const char *file, const char *fmt, ...)
{
	va_list ap;

	e->file = file;
	va_start(ap, fmt);
	(void)vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return false;
}

/* ---- files ---- */

void ctx_free_secret(uint8_t *p, size_t n)
{
	if (p != NULL)
		explicit_bzero(p, n);
	free(p);
}

static uint8_t *read_all(int fd, size_t n)
{
	uint8_t *p = malloc(n + 1);
	size_t at = 0;
	ssize_t k = 1;

	while (p != NULL && at < n && k > 0) {
		k = read(fd, p + at, n - at);
		at += k > 0 ? (size_t)k : 0;
	}
	if (p != NULL && at == n) {
		p[n] = '\0';
		return p;
	}
	ctx_free_secret(p, p != NULL ? n : 0);
	return NULL;
}

uint8_t *ctx_read_file(const char *path, size_t bytes_max, size_t *n, struct tls_error *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	uint8_t *p = NULL;

	if (fd < 0) {
		(void)ctx_error(e, path, "cannot be read: %s", strerror(errno));
		return NULL;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		(void)ctx_error(e, path, "is no file");
	} else if (st.st_size == 0) {
		(void)ctx_error(e, path, "is empty");
	} else if ((size_t)st.st_size > bytes_max) {
		(void)ctx_error(e, path, "is larger than %zu octets", bytes_max);
	} else {
		*n = (size_t)st.st_size;
		p = read_all(fd, *n);
		if (p == NULL)
			(void)ctx_error(e, path, "cannot be read");
	}
	close(fd);
	return p;
}

/* ---- certificate and key ---- */

static bool use_chain(WOLFSSL_CTX *ctx, const char *path, DerBuffer **leaf, struct tls_error *e)
{
	size_t n;
	uint8_t *pem = ctx_read_file(path, PEM_BYTES_MAX, &n, e);
	int ret;

	if (pem == NULL)
		return false;
	ret = wolfSSL_CTX_use_certificate_chain_buffer(ctx, pem, (long)n);
	if (ret != WOLFSSL_SUCCESS)
		(void)ctx_error(e, path, "is no PEM file of a certificate (%s)",
			wolfSSL_ERR_reason_error_string((unsigned long)ret));
	else if (leaf != NULL && wc_PemToDer(pem, (long)n, CERT_TYPE, leaf, NULL, NULL, NULL) != 0)
		ret = ctx_error(e, path, "has no certificate that could be read");
	ctx_free_secret(pem, n); /* the key may be in the same file */
	return ret == WOLFSSL_SUCCESS;
}

static bool use_key(WOLFSSL_CTX *ctx, const struct tls_pair *p, struct tls_error *e)
{
	size_t n;
	uint8_t *pem = ctx_read_file(p->key, PEM_BYTES_MAX, &n, e);
	int ret;

	if (pem == NULL)
		return false;
	ret = wolfSSL_CTX_use_PrivateKey_buffer(ctx, pem, (long)n, WOLFSSL_FILETYPE_PEM);
	ctx_free_secret(pem, n);
	if (ret != WOLFSSL_SUCCESS)
		return ctx_error(e, p->key, "is no PEM file of a private key without a passphrase");
	if (wolfSSL_CTX_check_private_key(ctx) != WOLFSSL_SUCCESS)
		return ctx_error(e, p->key, "is not the key of %s", p->chain);
	return true;
}

bool ctx_use_pair(WOLFSSL_CTX *ctx, const struct tls_pair *p, DerBuffer **leaf, struct tls_error *e)
{
	return use_chain(ctx, p->chain, leaf, e) && use_key(ctx, p, e);
}

/* ---- lists ---- */

/* The next of a colon-separated list, NUL-terminated in `word`. False: no more. */
static bool next_word(const char **at, char *word, size_t word_bytes)
{
	size_t n = strcspn(*at, ":");

	if (**at == '\0')
		return false;
	(void)snprintf(word, word_bytes, "%.*s", (int)MIN_OF(n, word_bytes), *at);
	*at += n + ((*at)[n] == ':');
	return true;
}

/* The versions that the suites of a list are of. wolfSSL would leave out what it does not know
 * without a word, and offer a version that it has no suite of. */
static bool versions_of(const char *list, bool *has12, bool *has13, struct tls_error *e)
{
	const char *at = list;
	char word[64];
	byte first, second;
	int flags;

	*has12 = *has13 = false;
	while (next_word(&at, word, sizeof(word))) {
		if (word[0] == '\0' ||
			wolfSSL_get_cipher_suite_from_name(word, &first, &second, &flags) != 0)
			return ctx_error(e, NULL, "there is no cipher `%s`", word);
		*(first == 0x13 ? has13 : has12) = true;
	}
	return *has12 || *has13 || ctx_error(e, NULL, "the list of ciphers is empty");
}

static int group_of(const char *name)
{
	static const struct {
		const char *name;
		int group;
	} groups[] = {
		{"X25519", WOLFSSL_ECC_X25519},
		{"P-256", WOLFSSL_ECC_SECP256R1},
		{"P-384", WOLFSSL_ECC_SECP384R1},
		{"P-521", WOLFSSL_ECC_SECP521R1},
	};

	for (size_t i = 0; i < ARRAY_LEN(groups); i++)
		if (strcasecmp(groups[i].name, name) == 0)
			return groups[i].group;
	return -1;
}

static bool set_groups(WOLFSSL_CTX *ctx, const char *list, struct tls_error *e)
{
	int groups[WOLFSSL_MAX_GROUP_COUNT], n = 0;
	const char *at = list;
	char word[64];

	while (next_word(&at, word, sizeof(word))) {
		if (group_of(word) < 0)
			return ctx_error(e, NULL, "there is no group `%s`", word);
		if (n == WOLFSSL_MAX_GROUP_COUNT)
			return ctx_error(e, NULL, "the list of groups is too long");
		groups[n++] = group_of(word);
	}
	if (n == 0 || wolfSSL_CTX_set_groups(ctx, groups, n) != WOLFSSL_SUCCESS)
		return ctx_error(e, NULL, "the list of groups cannot be used");
	return true;
}

/* ---- contexts ---- */

static WOLFSSL_METHOD *method_of(bool server, bool has13)
{
	if (has13)
		return server ? wolfSSLv23_server_method() : wolfSSLv23_client_method();
	return server ? wolfTLSv1_2_server_method() : wolfTLSv1_2_client_method();
}

static bool set_lists(
	WOLFSSL_CTX *ctx, int lowest, const char *ciphers, const char *groups, struct tls_error *e)
{
	if (wolfSSL_CTX_SetMinVersion(ctx, lowest) != WOLFSSL_SUCCESS)
		return ctx_error(e, NULL, "the lowest version cannot be set");
	if (wolfSSL_CTX_set_cipher_list(ctx, ciphers) != WOLFSSL_SUCCESS)
		return ctx_error(e, NULL, "the list of ciphers cannot be used");
	return set_groups(ctx, groups, e);
}

WOLFSSL_CTX *ctx_new(bool server, enum tls_version min, const char *ciphers, const char *groups,
	struct tls_error *e)
{
	WOLFSSL_CTX *ctx;
	bool has12, has13;

	ciphers = ciphers ? ciphers : TLS_CIPHERS;
	if (!versions_of(ciphers, &has12, &has13, e))
		return NULL;
	if (min == TLS_1_3 && !has13) {
		(void)ctx_error(e, NULL, "there is no cipher of version 1.3 in the list");
		return NULL;
	}
	ctx = wolfSSL_CTX_new(method_of(server, has13));
	if (ctx == NULL) {
		(void)ctx_error(e, NULL, "no memory");
		return NULL;
	}
	wolfSSL_CTX_SetIORecv(ctx, shake_recv);
	wolfSSL_CTX_SetIOSend(ctx, shake_send);
	/* One lock for the process, and of no use beside tickets. */
	(void)wolfSSL_CTX_set_session_cache_mode(ctx, WOLFSSL_SESS_CACHE_OFF);
	if (set_lists(ctx, min == TLS_1_3 || !has12 ? WOLFSSL_TLSV1_3 : WOLFSSL_TLSV1_2, ciphers,
		    groups ? groups : TLS_GROUPS, e))
		return ctx;
	wolfSSL_CTX_free(ctx);
	return NULL;
}
