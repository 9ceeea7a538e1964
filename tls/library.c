/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * wolfSSL as a whole: once at the start of the process, once at its end. Its memory is the
 * process's malloc.
 */
#include "tls/tls_int.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

bool tls_library_init(struct tls_error *e)
{
	int ret = wolfSSL_Init();

	if (ret == WOLFSSL_SUCCESS)
		return true;
	return ctx_error(e, NULL, "wolfSSL does not start: %s",
		wolfSSL_ERR_reason_error_string((unsigned long)ret));
}

void tls_library_fini(void)
{
	(void)wolfSSL_Cleanup();
}

const char *tls_library_version(void)
{
	return "wolfSSL " LIBWOLFSSL_VERSION_STRING;
}

/* A package of wolfSSL for any CPU is 17 to 28 times slower per octet. */
bool tls_library_accelerated(void)
{
#if defined(__x86_64__) && defined(WOLFSSL_AESNI)
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__) && defined(WOLFSSL_ARMASM)
	return (getauxval(AT_HWCAP) & (1ul << 3)) != 0; /* HWCAP_AES */
#else
	return false;
#endif
}
