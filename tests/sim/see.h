/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The record of a world as if there were no TLS: what was in records stands there in clear, given
 * or taken when the last octet of its record was. Made from the record and the secrets in it, with
 * a reader of its own (RFC 8446 5, 7), so it is a witness against the library on both sides.
 *
 * Of what crossed before a STARTTLS the part that is seen is the veil's choice (veil_conf).
 * Failure modes: a record that cannot be read, and all behind it, counts as never crossed.
 */
#ifndef TESTS_SIM_SEE_H
#define TESTS_SIM_SEE_H

#include "tests/sim/record.h"

/* A copy of *r; record_free() it. Sockets without a veil are as they were. */
void see_record(const struct record *r, struct record *out);

#endif
