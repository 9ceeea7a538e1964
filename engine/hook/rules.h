/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Built-in rules: lists of senders, recipients, EHLO names and client networks that are refused.
 * Pure; any thread.
 */
#ifndef HOOK_RULES_H
#define HOOK_RULES_H

#include "engine/hook/hook.h"

/* True when a list of `rules` names what the event is about. */
bool rules_match(const struct conf_rules *rules, const struct hook_event *ev);

/* "user@dom" (case-insensitive in ASCII), "@dom", "@.dom" (any host below dom). */
bool rules_path_matches(
	const struct conf_pattern *list, uint32_t count, const struct smtp_path *path);

#endif
