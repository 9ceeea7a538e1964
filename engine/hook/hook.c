/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Asking the hooks of a listener, in the order of the configuration; the first refusal stands.
 */
#include "engine/hook/hook.h"

#include "engine/hook/rules.h"

const struct local_reply *hook_ask(const struct conf_listener *lis, const struct hook_event *ev)
{
	for (uint32_t i = 0; i < lis->hook_count; i++) {
		const struct conf_hook *h = lis->hooks[i];

		ASSERT(h->type == HOOK_RULES);
		if (rules_match(&h->rules, ev))
			return &h->rules.reply;
	}
	return NULL;
}
