/* SPDX-License-Identifier: MIT */
#ifndef MQFS_RECORDS_H
#define MQFS_RECORDS_H

#include <stdint.h>

#include <mqfs/backend.h>
#include <mqfs/delivery.h>
#include <mqfs/state.h>

/*
 * What this host remembers of single copies of messages, in the state file:
 *
 *   outcomes (C9)  what was decided about a claim whose connection was lost, until the broker redelivers that very
 *                  copy to this host, or settled-ttl is over;
 *   takes (R6)     that a copy was taken and not settled: a handler that kills its reader, mqfs or the host each time
 *                  is counted all the same.
 *
 * A copy is known by queue, message-id and mqfs-copy (absent equals absent). One without message-id is never known.
 * Completions run on the state's thread, with no lock held. All functions are thread-safe and none blocks.
 */
struct mqfs_records;

enum mqfs_outcome {
	MQFS_OUTCOME_NONE,
	MQFS_OUTCOME_ACK, /* done: acknowledge it when it comes back */
	MQFS_OUTCOME_RETRY,
	MQFS_OUTCOME_BURY,
};

struct mqfs_record {
	enum mqfs_outcome outcome;
	const char *error; /* RETRY, BURY: the reason; may be NULL */
	int64_t takes;     /* of this copy, unsettled, by this host */
};

/* ttl_ms: settled-ttl. */
struct mqfs_records *mqfs_records_open(struct mqfs_state *state, int64_t ttl_ms);
void mqfs_records_close(struct mqfs_records *records);

/* Replaces an earlier outcome of the same copy. done (may be NULL): 0, it is on the disk. -ENOSPC, … */
void mqfs_records_decide(struct mqfs_records *records, const char *queue, const struct mqfs_message *message,
                         enum mqfs_outcome outcome, const char *error, mqfs_done_fn *done, void *arg);

/* One take more; on the disk within a second. What is forgotten before that never gets there. */
void mqfs_records_take(struct mqfs_records *records, const char *queue, const struct mqfs_message *message);

/* The copy is settled (or given back uncounted): both its outcome and its takes go. */
void mqfs_records_forget(struct mqfs_records *records, const char *queue, const struct mqfs_message *message);

/* What is known of a redelivered copy, also from other mounts of this host and before a restart. record is valid during
 * the call only; result < 0: the disk could not be read. */
typedef void mqfs_records_fn(void *arg, int result, const struct mqfs_record *record);
void mqfs_records_find(struct mqfs_records *records, const char *queue, const struct mqfs_message *message,
                       mqfs_records_fn *done, void *arg);

#endif
