/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See material.h. What is released last frees the sites and policies that no connection has: that
 * takes a while with many CAs, so whoever may block should be the last (core/control.c is).
 */
#include "tls/material.h"

struct tls_material *tls_material_new(uint32_t site_count, uint32_t policy_count)
{
	struct tls_material *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	atomic_init(&m->refs, 1);
	m->site_count = site_count;
	m->policy_count = policy_count;
	m->sites = calloc(MAX_OF(1u, site_count), sizeof(struct tls_site *));
	m->policies = calloc(MAX_OF(1u, policy_count), sizeof(struct tls_policy *));
	if (m->sites && m->policies)
		return m;
	free(m->sites);
	free(m->policies);
	free(m);
	return NULL;
}

struct tls_material *tls_material_ref(struct tls_material *m)
{
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
	return m;
}

void tls_material_unref(struct tls_material *m)
{
	if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) > 1)
		return;
	for (uint32_t i = 0; i < m->site_count; i++)
		tls_site_unref(m->sites[i]);
	for (uint32_t i = 0; i < m->policy_count; i++)
		tls_policy_unref(m->policies[i]);
	free(m->sites);
	free(m->policies);
	free(m);
}

bool tls_material_alone(const struct tls_material *m)
{
	return atomic_load_explicit(&m->refs, memory_order_acquire) == 1;
}
