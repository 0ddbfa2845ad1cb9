/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_KIND_H
#define MQFS_AMQP_KIND_H

#include <amqp.h>
#include <stdbool.h>

/*
 * Does the broker count the deliveries of a queue (is it a quorum queue)? There is no such question in AMQP, but
 * there is an answer: a declaration with other arguments than the queue has is refused with the first argument that
 * differs. So a probe declares the queue with a type that no broker has, which can't make one where there is
 * none, and goes on with what it was told until it is told the type. Pure.
 */

enum kind { KIND_UNKNOWN, KIND_PLAIN, KIND_COUNTS };

#define KIND_ARGUMENTS_MAX 16

struct kind_probe {
	amqp_table_entry_t arguments[KIND_ARGUMENTS_MAX];
	amqp_table_t table; /* to declare with: durable, not exclusive, not auto-delete */
	char texts[KIND_ARGUMENTS_MAX][2][256];
};

void kind_probe_init(struct kind_probe *probe);
/* refusal: the text of the 406. true: that is all there is to learn, *ret_kind; false: declare again, with the table as
 * it is now. */
bool kind_probe_read(struct kind_probe *probe, const char *refusal, enum kind *ret_kind);

/* The same, to ask whether the queue refuses messages when it is full; true unless it was told that it does not. (What
 * a policy says can't be asked.) */
void kind_probe_init_overflow(struct kind_probe *probe);
bool kind_probe_read_overflow(struct kind_probe *probe, const char *refusal, bool *ret_refuses);

#endif
