/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>
#include <mqfs/failure.h>
#include <mqfs/retry.h>

#define LOG_TOPIC "consumer"
#include <mqfs/log.h>

/*
 * Outcomes: from what a user said (mqfs_settlement) to what a backend does (mqfs_disposition), and what follows from
 * the backend's answer. The user was answered at the beginning, so an outcome that fails is not forgotten:
 *
 *   done                              -> SETTLED
 *   its connection is over            -> kept for the redelivery (consumer_lost.c, consumer_recall.c), or LOST
 *   replaced by another meanwhile     -> that one is tried
 *   anything else                     -> CLAIMED with the reason, tried again every few seconds
 */

const char *consumer_failure_reason(const struct held *held)
{
	if (held->how == MQFS_SETTLE_ABANDON)
		return "the reader was killed";
	return held->late ? held->cause : held->delivery->error;
}

/* R1: the copy for retry/ or dead/. 0 or -ENOMEM. */
static int plan_failure(struct held *held, struct mqfs_disposition *ret_disposition)
{
	const struct mqfs_consumer *consumer = held->consumer;
	const struct mqfs_message *message = held->delivery->message;
	bool worn_out = held->worn_out && held->how == MQFS_SETTLE_BURY;
	struct mqfs_retry_decision decision;
	struct mqfs_failed_attempt attempt;
	struct mqfs_history history;

	mqfs_history_read(message, &history);
	attempt = (struct mqfs_failed_attempt){
	    .attempts = history.attempts + held->delivery->takes + !worn_out,
	    .now_us = mqfs_clock_realtime_us(),
	    .error = consumer_failure_reason(held),
	    .host = consumer->host,
	    .queue = consumer->queue,
	};
	decision = mqfs_retry_decide(&consumer->settings, attempt.attempts,
	                             history.max_attempts > 0 ? history.max_attempts : consumer->settings.max_attempts,
	                             mqfs_retry_random());
	if (held->how == MQFS_SETTLE_BURY || decision.dead) {
		attempt.dead_reason = held->how == MQFS_SETTLE_BURY && !worn_out ? "rejected" : "max-attempts";
		ret_disposition->place = MQFS_PLACE_DEAD;
		ret_disposition->copy = mqfs_copy_for_dead(message, &attempt);
	} else {
		if (held->how == MQFS_SETTLE_RETRY) {
			ret_disposition->place = MQFS_PLACE_RETRY;
			ret_disposition->delay_ms = decision.delay_ms;
		}
		attempt.next_at_us = attempt.now_us + ret_disposition->delay_ms * 1000;
		ret_disposition->copy = mqfs_copy_for_retry(message, &attempt);
	}
	return ret_disposition->copy ? 0 : -ENOMEM;
}

static int plan(struct held *held, struct mqfs_disposition *ret_disposition)
{
	*ret_disposition = (struct mqfs_disposition){.verb = MQFS_VERB_MOVE, .place = MQFS_PLACE_READY};
	switch (held->how) {
	case MQFS_SETTLE_ACK:
		ret_disposition->verb = MQFS_VERB_ACK;
		return 0;
	case MQFS_SETTLE_RELEASE:
		ret_disposition->verb = MQFS_VERB_RELEASE;
		return 0;
	case MQFS_SETTLE_RETRY:
	case MQFS_SETTLE_BURY:
	case MQFS_SETTLE_ABANDON:
		break;
	}
	return plan_failure(held, ret_disposition);
}

static void begin(struct held *held, const struct mqfs_disposition *disposition, int64_t deadline_ms)
{
	struct consumer_work *work = &held->consumer->work;

	held->disposition = *disposition;
	held->deadline_ms = deadline_ms;
	held->in_flight = true;
	held->replaced = false;
	held->consumer->in_flight_count++;
	consumer_ref(held->consumer);
	held->also = NULL;
	if (work->settle)
		work->settle_last->also = held;
	else
		work->settle = held;
	work->settle_last = held;
}

/* Begins held->how. 0 or -ENOMEM. */
static int begin_decided(struct held *held)
{
	struct mqfs_disposition disposition;
	int result = plan(held, &disposition);

	if (result < 0)
		return result;
	held->decided = true;
	begin(held, &disposition, mqfs_clock_monotonic_ms() + held->consumer->settings.publish_timeout_ms);
	return 0;
}

/* The outcome could not be done now: it is listed with the reason, and tried again. */
static void late_failure(struct held *held, int result, const char *reason)
{
	struct mqfs_delivery *delivery = held->delivery;

	if (delivery->state == MQFS_DELIVERY_SETTLING)
		consumer_move(held, MQFS_DELIVERY_CLAIMED);
	if (!delivery->claimed_us) /* it was settled untaken */
		consumer_begin_claim(held, mqfs_clock_monotonic_ms());
	if (held->late)
		free(delivery->error);
	else
		held->cause = delivery->error;
	held->late = true;
	if (!reason)
		reason = strerror(-result);
	delivery->error = strdup(reason);
	held->again_ms = mqfs_clock_monotonic_ms() + CONSUMER_AGAIN_MS;
	consumer_due(held->consumer, held->again_ms);
	log_warning("%s: %s is not settled: %s", held->consumer->queue, delivery->name, reason);
}

void consumer_try_again(struct held *held)
{
	int result = begin_decided(held);

	if (result < 0)
		late_failure(held, result, NULL);
}

int consumer_decide(struct held *held, enum mqfs_settlement how)
{
	enum mqfs_settlement before = held->how;
	int result;

	held->how = how;
	if (held->in_flight) {
		held->replaced = true;
	} else if (held->detached && how == MQFS_SETTLE_RELEASE) {
		consumer_drop(held, MQFS_DELIVERY_LOST); /* the broker has it back already */
		return 0;
	} else if (held->detached) {
		held->decided = true;
		consumer_due(held->consumer, held->detached_ms + CONSUMER_RECORD_MS);
		consumer_record(held);
	} else {
		result = begin_decided(held);
		if (result < 0) {
			held->how = before;
			return result;
		}
	}
	consumer_move(held, MQFS_DELIVERY_SETTLING);
	return 0;
}

void consumer_give_back(struct mqfs_consumer *consumer)
{
	struct held *held, *next;

	HASH_ITER(hh, consumer->window, held, next)
	{
		enum mqfs_delivery_state state = held->delivery->state;

		if (held->in_flight || held->detached)
			continue;
		if (state == MQFS_DELIVERY_PENDING || state == MQFS_DELIVERY_ARRIVING)
			consumer_decide(held, MQFS_SETTLE_RELEASE);
		else if (consumer->closing && state == MQFS_DELIVERY_CLAIMED)
			/* An outcome that failed so far gets a last chance. */
			consumer_decide(held, held->decided ? held->how : MQFS_SETTLE_RELEASE);
	}
}

static void count_outcome(struct held *held)
{
	struct mqfs_counters *counters = held->consumer->counters;
	const struct mqfs_disposition *disposition = &held->disposition;

	if (held->counted || disposition->verb == MQFS_VERB_RELEASE)
		return;
	held->counted = true;
	if (disposition->verb == MQFS_VERB_ACK || held->forwarded)
		atomic_fetch_add(&counters->acked, 1);
	else if (disposition->place == MQFS_PLACE_DEAD)
		atomic_fetch_add(&counters->dead_lettered, 1);
	else
		atomic_fetch_add(&counters->retried, 1);
}

static void adopt_successor(struct held *held)
{
	struct mqfs_delivery *successor = held->successor;

	held->successor = NULL;
	consumer_adopt(held, successor);
}

/* Its copy is safe, or its work done; but on the way the connection was lost, so the original comes again, or has.
 * Then it needs an ack and nothing else. */
static void ack_when_redelivered(struct held *held)
{
	held->how = MQFS_SETTLE_ACK;
	held->decided = true;
	consumer_detach(held);
	if (held->delivery->state == MQFS_DELIVERY_CLAIMED)
		consumer_move(held, MQFS_DELIVERY_SETTLING);
	if (held->successor)
		adopt_successor(held);
	else
		consumer_record(held);
}

static void settled(struct held *held, int result)
{
	bool released = held->disposition.verb == MQFS_VERB_RELEASE;
	bool comes_again = held->detached || result == MQFS_MOVED_STALE;

	count_outcome(held);
	if (released && held->successor)
		adopt_successor(held);
	else if (comes_again && !released && consumer_recognisable(held))
		ack_when_redelivered(held);
	else
		consumer_drop(held, MQFS_DELIVERY_SETTLED);
}

/* Nobody is left to list it for: at least it goes back. */
static void not_settled_closing(struct held *held, int result)
{
	if (result == -ESHUTDOWN || held->disposition.verb == MQFS_VERB_RELEASE) {
		consumer_drop(held, MQFS_DELIVERY_LOST); /* the backend gives it back when it closes */
		return;
	}
	held->how = MQFS_SETTLE_RELEASE;
	consumer_try_again(held);
}

static void not_settled_detached(struct held *held)
{
	bool forward = held->forwarded && !held->decided;

	if (held->successor)
		adopt_successor(held);
	else if (!consumer_recognisable(held) || (!forward && held->how == MQFS_SETTLE_RELEASE))
		consumer_drop(held, MQFS_DELIVERY_LOST);
	else if (forward)
		consumer_due(held->consumer, held->delivery->expires_ms);
	else
		consumer_record(held);
}

static void not_settled(struct held *held, int result, const char *reason)
{
	/* A failed forward leaves the delivery as it was. */
	if (held->forwarded) {
		consumer_move(held, MQFS_DELIVERY_CLAIMED);
		held->decided = held->replaces;
		held->again_ms = mqfs_clock_monotonic_ms() + CONSUMER_AGAIN_MS;
	}
	if (result == -ESTALE)
		consumer_detach(held);
	if (held->detached)
		not_settled_detached(held);
	else if (held->consumer->closing)
		not_settled_closing(held, result);
	else if (held->forwarded)
		consumer_due(held->consumer, held->decided ? held->again_ms : held->delivery->expires_ms);
	else if (result == -ENOENT && held->disposition.verb != MQFS_VERB_MOVE)
		consumer_drop(held, MQFS_DELIVERY_SETTLED); /* nothing is there to be settled */
	else if (held->replaced)
		consumer_try_again(held);
	else
		late_failure(held, result, reason);
}

static void settle_done(void *arg, int result, const char *reason)
{
	struct held *held = arg;
	struct mqfs_consumer *consumer = held->consumer;
	mqfs_done_fn *forwarded;
	void *forwarded_arg;

	consumer_enter(consumer);
	FAILPOINT(consumer_settled);
	held->in_flight = held->apart = false;
	consumer->in_flight_count--;
	forwarded = held->forwarded;
	forwarded_arg = held->forwarded_arg;
	if (result >= 0)
		settled(held, result);
	else
		not_settled(held, result, reason);
	held->forwarded = NULL; /* what was dropped is freed by consumer_leave, not before */
	consumer_leave(consumer);
	if (forwarded)
		forwarded(forwarded_arg, result > 0 ? 0 : result, reason);
	consumer_unref(consumer);
}

/* The copy is where it belongs, or not; the original has no tag to be acknowledged by. */
static void published_apart(void *arg, int result, const char *reason)
{
	settle_done(arg, result == 0 ? MQFS_MOVED_STALE : result, reason);
}

void consumer_issue(struct held *settle)
{
	struct held *held, *next;

	for (held = settle; held; held = next) {
		/* The completion may run, and free it, before mqfs_settle returns. */
		struct mqfs_disposition disposition = held->disposition;
		struct mqfs_delivery *delivery = mqfs_delivery_ref(held->delivery);

		next = held->also;
		FAILPOINT(consumer_settling);
		if (held->apart)
			mqfs_publish(held->consumer->backend, disposition.queue, disposition.place, 0, disposition.copy,
			             held->deadline_ms, published_apart, held);
		else
			mqfs_settle(held->consumer->backend, delivery, &disposition, held->deadline_ms, settle_done,
			            held);
		mqfs_delivery_unref(delivery);
	}
}

/* Why there is nothing (more) to settle: -ENOENT, or -ESTALE when its connection took it. */
static int why_gone(const struct mqfs_delivery *delivery)
{
	return delivery->state == MQFS_DELIVERY_LOST ? -ESTALE : -ENOENT;
}

static int settle(struct held *held, enum mqfs_settlement how)
{
	int result;

	if (how == MQFS_SETTLE_ACK && held->delivery->state == MQFS_DELIVERY_PENDING)
		return -EPERM;
	if (how == MQFS_SETTLE_ABANDON && held->decided)
		return -EBUSY;
	if ((how == MQFS_SETTLE_RETRY || how == MQFS_SETTLE_BURY) && held->consumer->prepared < 0)
		return -EACCES;
	if (how == MQFS_SETTLE_ABANDON && held->consumer->prepared < 0) {
		consumer_count_take(held);
		how = MQFS_SETTLE_RELEASE;
	}
	if (held->detached && !consumer_recognisable(held)) {
		/* The kernel looks the path up once more and repeats the call: it has to find it, and the same errno.
		 */
		held->delivery->expires_ms = mqfs_clock_monotonic_ms() + CONSUMER_STALE_MS;
		consumer_due(held->consumer, held->delivery->expires_ms);
		return -ESTALE;
	}
	held->worn_out = false;
	result = consumer_decide(held, how);
	if (result == 0)
		consumer_amend(held);
	return result;
}

/* Why it can't be settled by who saw it in that state, or 0. */
static int refusal(const struct held *held, const struct mqfs_delivery *delivery, enum mqfs_delivery_state seen)
{
	if (!held)
		return why_gone(delivery);
	if (delivery->state == MQFS_DELIVERY_SETTLING)
		return -ENOENT;
	return seen == MQFS_DELIVERY_PENDING && delivery->state == MQFS_DELIVERY_CLAIMED ? -EBUSY : 0;
}

int mqfs_consumer_settle(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, enum mqfs_settlement how)
{
	return mqfs_consumer_settle_durably(consumer, delivery, MQFS_DELIVERY_CLAIMED, how, NULL, NULL);
}

int mqfs_consumer_settle_durably(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery,
                                 enum mqfs_delivery_state seen, enum mqfs_settlement how, mqfs_done_fn *done, void *arg)
{
	struct held *held;
	int result;

	consumer_enter(consumer);
	consumer_touched(consumer, mqfs_clock_monotonic_ms());
	held = consumer_held(consumer, delivery);
	result = refusal(held, delivery, seen);
	if (result == 0)
		result = settle(held, how);
	FAILPOINT(consumer_decided);
	if (result == 0 && done && held->detached && held->recording > 0) {
		held->kept = done;
		held->kept_arg = arg;
		result = 1;
	}
	consumer_leave(consumer);
	return result;
}

static int forward(struct held *held, const char *queue, int priority, int64_t deadline_ms, mqfs_done_fn *done,
                   void *arg)
{
	struct mqfs_disposition disposition = {.verb = MQFS_VERB_MOVE, .queue = queue, .place = MQFS_PLACE_READY};

	if (held->detached && !consumer_recognisable(held))
		return -ESTALE;
	if (held->in_flight || (held->decided && held->detached))
		return -EBUSY;
	disposition.copy = mqfs_copy_afresh(held->delivery->message, priority, mqfs_clock_realtime_us());
	if (!disposition.copy)
		return -ENOMEM;
	if (held->delivery->state == MQFS_DELIVERY_PENDING)
		consumer_take(held, NULL);
	consumer_move(held, MQFS_DELIVERY_SETTLING);
	held->forwarded = done;
	held->forwarded_arg = arg;
	held->replaces = held->decided;
	held->decided = false;
	held->apart = held->detached;
	begin(held, &disposition, deadline_ms);
	return 0;
}

int mqfs_consumer_forward(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, enum mqfs_delivery_state seen,
                          const char *queue, int priority, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct held *held;
	int result;

	consumer_enter(consumer);
	consumer_touched(consumer, mqfs_clock_monotonic_ms());
	held = consumer_held(consumer, delivery);
	result = refusal(held, delivery, seen);
	if (result == 0)
		result = forward(held, queue, priority, deadline_ms, done, arg);
	consumer_leave(consumer);
	return result;
}
