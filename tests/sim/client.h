/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The clients of a simulated world: seeded, legal, legal but rare, and hostile. What they meant is
 * nobody's business: the oracle reads what they sent.
 *
 * Marks: client number n says "c<n>.example" in EHLO, and every address and every line of a body
 * names client and message ("c<n>m<m>"), so that an octet found in the wrong place names its owner.
 */
#ifndef TESTS_SIM_CLIENT_H
#define TESTS_SIM_CLIENT_H

#include "tests/sim/kernel.h"

enum cli_manners { CLI_POLITE, CLI_RARE, CLI_HOSTILE };

struct clients_conf {
	uint32_t count;	     /* 1 .. */
	uint32_t messages;   /* each sends up to so many */
	uint32_t body_bytes; /* of a body, up to; most are much smaller */
	enum cli_manners manners;
	bool dies;   /* may vanish, shut, close or reset at any point */
	bool stalls; /* may stop reading or writing for a long time */
	bool starttls, auth;
	bool starttls_rushed; /* all want it, many say more before the answer */
	bool chunks;	      /* BDAT wherever it is offered */
	bool binds;	      /* says what concerns one link alone, where it is offered or not */
	bool bulky;	      /* large bodies, by BDAT where that is offered: what movers carry */
	bool letters;	      /* bodies that have a header */
	/* Words that rules of the engine refuse, to be said now and then. */
	const char *bad_sender, *bad_recipient, *bad_ehlo;
};

/* Where a client connects. */
struct cli_door {
	struct ring_fd listener;
	struct ring_addr from; /* the port is changed for each client */
	enum sim_tls tls;
};

struct sim_clients;

struct sim_clients *clients_new(struct sim_kernel *k, struct tape *t,
	const struct clients_conf *conf, const struct cli_door *doors, uint32_t door_count);
void clients_free(struct sim_clients *c);
bool clients_step(struct sim_clients *c); /* one small thing; false: nothing to do now */
uint64_t clients_next_us(const struct sim_clients *c);
/* From here on they read everything, send no new message, say QUIT where they can, and go. */
void clients_calm(struct sim_clients *c);
bool clients_gone(const struct sim_clients *c); /* every one has closed its connection */
/* How many waited for twenty minutes in vain in quiet times: the engine was silent. */
uint32_t clients_gave_up(const struct sim_clients *c);
/* Octets that client `who` has read, for the oracle: what it was really told. */
const struct octets *clients_heard(const struct sim_clients *c, uint32_t who);

#endif
