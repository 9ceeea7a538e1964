/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * All sites and policies of one configuration. Made away from the rings, handed to every worker,
 * replaced as a whole; each holder has a reference, and connections have their own of the sites and
 * policies they use.
 */
#ifndef TLS_MATERIAL_H
#define TLS_MATERIAL_H

#include "tls/tls.h"

#include <stdatomic.h>

struct tls_material {
	atomic_uint refs;
	struct tls_site **sites;      /* by the listener's index; NULL where none is needed; owns */
	struct tls_policy **policies; /* by the upstream's index; the same */
	uint32_t site_count, policy_count;
};

/* With one reference and nothing in it but NULLs, for its maker to fill before anybody else sees
 * it. NULL: no memory. */
struct tls_material *tls_material_new(uint32_t site_count, uint32_t policy_count) MUST_USE;
struct tls_material *tls_material_ref(struct tls_material *m);
void tls_material_unref(struct tls_material *m); /* NULL: nothing */
/* Nobody but the caller has it any more. */
bool tls_material_alone(const struct tls_material *m);

#endif
