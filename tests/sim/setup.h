/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The configurations that simulated worlds run under: one real configuration file with listeners of
 * every kind, read once per process, and the same facts in the oracle's terms.
 */
#ifndef TESTS_SIM_SETUP_H
#define TESTS_SIM_SETUP_H

#include "engine/conf/conf.h"
#include "tests/sim/oracle.h"
#include "tls/material.h"

#define SETUP_BAD_SENDER "spam@bad.example"
#define SETUP_BAD_RECIPIENT "nobody@bad.example"
#define SETUP_BAD_EHLO "worm.bad.example"
#define SETUP_RULE_REPLY "550 5.7.1 refused by the rule"

#define SETUP_FIRST_HOOKED "seen"
#define SETUP_FIRST_TLS "t1"

struct setup {
	struct conf *conf;
	struct oracle_listener *listeners; /* by conf_listener.index; owns */
	struct ring_addr *servers;	   /* all servers of all upstreams, numbered; owns */
	uint8_t *server_tls;		   /* of each: enum sim_tls; owns */
	uint32_t server_count;
	uint32_t plain_count; /* listeners before the first whose hooks change messages */
	uint32_t tls_first;   /* the first of those that have to do with TLS */
	struct tls_material material;
};

/* The process's own; made on first use, never freed. */
const struct setup *setup_get(void);

#endif
