/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>
#include <mqfs/failure.h>
#define LOG_TOPIC "consumer"
#include <mqfs/log.h>

/*
 * What outlives the process (records.h), as the window uses it.
 *
 * Rule C9: the outcome of a claim whose connection is over is written down, and then the claim is done with: its copy
 * may come back tomorrow, to another process. Until it is on the disk the claim stays in the window, and a redelivery
 * that overtakes the disk finds it there (consumer_lost.c).
 *
 * Rule R6: a take is written down when it has lasted CONSUMER_TAKE_MS, so that what is taken and settled never touches
 * the disk. But what kills mqfs may do so at once. Then it is redelivered, to a consumer that has just begun, and that
 * is when a take is written down at once.
 *
 * So a redelivery, and nothing else, is looked up before it is listed. It waits for that as ARRIVING, beside the
 * others.
 */

static void recall_free(struct consumer_recall *recall)
{
	mqfs_delivery_unref(recall->delivery);
	consumer_unref(recall->consumer);
	free(recall);
}

static struct consumer_recall *recall_new(struct held *held)
{
	struct consumer_recall *recall = calloc(1, sizeof(*recall));

	if (!recall)
		return NULL;
	recall->consumer = held->consumer;
	recall->delivery = mqfs_delivery_ref(held->delivery);
	consumer_ref(held->consumer);
	return recall;
}

/* ---- outcomes ---- */

static enum mqfs_outcome outcome_of(enum mqfs_settlement how)
{
	switch (how) {
	case MQFS_SETTLE_ACK:
		return MQFS_OUTCOME_ACK;
	case MQFS_SETTLE_BURY:
		return MQFS_OUTCOME_BURY;
	case MQFS_SETTLE_RETRY:
	case MQFS_SETTLE_ABANDON:
		return MQFS_OUTCOME_RETRY;
	case MQFS_SETTLE_RELEASE:
		break;
	}
	return MQFS_OUTCOME_NONE;
}

static enum mqfs_settlement settlement_of(enum mqfs_outcome outcome)
{
	if (outcome == MQFS_OUTCOME_ACK)
		return MQFS_SETTLE_ACK;
	return outcome == MQFS_OUTCOME_BURY ? MQFS_SETTLE_BURY : MQFS_SETTLE_RETRY;
}

/* The broker is told much later, perhaps by another process: it counts now. */
static void count_decided(struct held *held)
{
	struct mqfs_counters *counters = held->consumer->counters;

	if (held->counted)
		return;
	held->counted = true;
	if (held->how == MQFS_SETTLE_ACK)
		atomic_fetch_add(&counters->acked, 1);
	else if (held->how == MQFS_SETTLE_BURY)
		atomic_fetch_add(&counters->dead_lettered, 1);
	else
		atomic_fetch_add(&counters->retried, 1);
}

/* Not on the disk: who waits for it hears so and has the claim again; else it is at least kept here. */
static void not_recorded(struct held *held, bool waited, int result)
{
	log_warning("%s: the outcome of %s is kept in memory alone: %s", held->consumer->queue, held->delivery->name,
	            strerror(-result));
	if (!waited)
		return;
	held->decided = false;
	consumer_move(held, MQFS_DELIVERY_CLAIMED);
	consumer_due(held->consumer, held->delivery->expires_ms);
}

static void recorded(void *arg, int result, const char *reason)
{
	struct consumer_recall *recall = arg;
	struct mqfs_consumer *consumer = recall->consumer;
	mqfs_done_fn *kept = NULL;
	void *kept_arg = NULL;
	struct held *held;

	consumer_enter(consumer);
	held = consumer_held(consumer, recall->delivery);
	if (held && --held->recording == 0) {
		kept = held->kept;
		kept_arg = held->kept_arg;
		held->kept = NULL;
		if (!held->detached || held->in_flight || !held->decided) {
			result = 0; /* it came again meanwhile, and is settled like any other */
		} else if (result < 0) {
			not_recorded(held, kept, result);
		} else {
			count_decided(held);
			held->noted = false; /* the record outlives the claim */
			consumer_drop(held, MQFS_DELIVERY_SETTLED);
		}
	}
	consumer_leave(consumer);
	if (kept)
		kept(kept_arg, result, reason);
	recall_free(recall);
}

void consumer_record(struct held *held)
{
	struct mqfs_records *records = held->consumer->records;
	struct mqfs_copy_name name = mqfs_copy_name(held->delivery);
	struct consumer_recall *recall = records && consumer_recognisable(held) ? recall_new(held) : NULL;

	if (!recall)
		return;
	if (mqfs_records_decide(records, &name, outcome_of(held->how), consumer_failure_reason(held), recorded,
	                        recall) < 0) {
		recall_free(recall);
		return;
	}
	held->recording++;
	held->noted = held->outcome_noted = true;
	consumer_take_back(held); /* this take has come to something */
}

/* Else an earlier outcome would be applied to what was given back, or when mqfs is killed before this one is done. */
void consumer_amend(struct held *held)
{
	struct mqfs_copy_name name = mqfs_copy_name(held->delivery);

	if (!held->outcome_noted || (held->detached && held->how != MQFS_SETTLE_RELEASE))
		return; /* nothing is there, or consumer_record has replaced it */
	held->outcome_noted = outcome_of(held->how) != MQFS_OUTCOME_NONE;
	mqfs_records_decide(held->consumer->records, &name, outcome_of(held->how), consumer_failure_reason(held), NULL,
	                    NULL);
}

/* ---- takes ---- */

void consumer_note_take(struct held *held)
{
	if (!held->consumer->records || held->take_noted)
		return;
	held->take_noted = held->noted = true;
	mqfs_records_take(held->consumer->records, held->delivery);
}

void consumer_took(struct held *held, int64_t now_ms)
{
	struct mqfs_consumer *consumer = held->consumer;

	if (!consumer->records)
		return;
	held->note_ms = now_ms + CONSUMER_TAKE_MS;
	if (held->delivery->redelivered && consumer->wary > 0) {
		consumer->wary--;
		consumer_note_take(held);
	} else {
		consumer_due(consumer, held->note_ms);
	}
}

void consumer_take_back(struct held *held)
{
	if (!held->take_noted)
		return;
	held->take_noted = false;
	mqfs_records_give_back(held->consumer->records, held->delivery);
}

void consumer_count_take(struct held *held)
{
	if (!held->consumer->records || held->take_counts)
		return;
	consumer_note_take(held);
	held->take_counts = true;
	held->delivery->takes++; /* where giving back makes a copy, that carries the count */
}

void consumer_forget(struct held *held, enum mqfs_delivery_state to)
{
	bool settled = to == MQFS_DELIVERY_SETTLED && held->disposition.verb != MQFS_VERB_RELEASE;

	if (settled && !held->detached)
		consumer_told(held);
	if (!held->noted)
		return;
	if (settled)
		mqfs_records_forget(held->consumer->records, held->delivery);
	else if (!held->take_counts)
		consumer_take_back(held);
}

/* ---- redeliveries ---- */

bool consumer_is_worn_out(const struct held *held)
{
	const struct mqfs_delivery *delivery = held->delivery;
	struct mqfs_history history;
	int64_t most;

	if (delivery->takes == 0 || held->consumer->prepared < 0)
		return false;
	mqfs_history_read(delivery->message, &history);
	most = history.max_attempts > 0 ? history.max_attempts : held->consumer->settings.max_attempts;
	return history.attempts + delivery->takes >= most;
}

static char *worn_out_reason(const struct held *held)
{
	char *text;

	if (asprintf(&text, "taken %" PRId64 " times and never settled (the reader, mqfs or the host died)",
	             held->delivery->takes) < 0)
		return NULL;
	return text;
}

/* false: it has to be listed. */
static bool settle_unseen(struct held *held, const struct mqfs_record *record)
{
	if (record->outcome != MQFS_OUTCOME_NONE) {
		FAILPOINT(record_used);
		held->counted = true; /* when it was decided */
		consumer_set_cause(held, record->error ? strdup(record->error) : NULL);
		return consumer_decide(held, settlement_of(record->outcome)) == 0;
	}
	if (!consumer_is_worn_out(held))
		return false;
	held->worn_out = true;
	consumer_set_cause(held, worn_out_reason(held));
	if (consumer_decide(held, MQFS_SETTLE_BURY) < 0) {
		held->worn_out = false;
		return false;
	}
	log_warning("%s: %s goes to dead/: %s", held->consumer->queue, held->delivery->name, held->delivery->error);
	return true;
}

static void recognise(struct held *held, const struct mqfs_record *record)
{
	held->delivery->takes = record->takes;
	held->outcome_noted = record->outcome != MQFS_OUTCOME_NONE;
	held->noted = held->outcome_noted || record->takes > 0;
	if (!settle_unseen(held, record))
		consumer_show(held);
}

static void found(void *arg, int result, const struct mqfs_record *record)
{
	struct consumer_recall *recall = arg;
	struct mqfs_consumer *consumer = recall->consumer;
	struct held *held;

	if (result < 0)
		log_warning("%s: what is known of a redelivered message can't be read: %s", consumer->queue,
		            strerror(-result));
	consumer_enter(consumer);
	held = consumer_held(consumer, recall->delivery);
	if (held && held->delivery->state == MQFS_DELIVERY_ARRIVING)
		recognise(held, record);
	consumer_serve(consumer, mqfs_clock_monotonic_ms());
	consumer_leave(consumer);
	recall_free(recall);
}

bool consumer_recall(struct held *held)
{
	struct mqfs_consumer *consumer = held->consumer;
	struct consumer_recall *recall;

	if (!consumer->records || !held->delivery->redelivered)
		return false;
	recall = recall_new(held);
	if (!recall)
		return false;
	if (mqfs_records_find(consumer->records, held->delivery, found, recall) < 0) {
		recall_free(recall);
		return false;
	}
	consumer_due(consumer, held->delivered_ms + CONSUMER_RECALL_MS);
	return true;
}
