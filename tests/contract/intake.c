/* SPDX-License-Identifier: MIT */
#include "contract.h"

static void delivered(void *arg, struct mqfs_delivery *delivery)
{
	struct intake *intake = arg;

	shared_lock();
	if (intake->prepared_count == 0)
		intake->early = true;
	if (intake->count < INTAKE_MAX)
		intake->deliveries[intake->count++] = delivery;
	shared_changed();
	shared_unlock();
}

static void lost(void *arg, uint64_t generation)
{
	struct intake *intake = arg;

	shared_lock();
	intake->lost = generation;
	shared_changed();
	shared_unlock();
}

static void drained(void *arg)
{
	struct intake *intake = arg;

	shared_lock();
	intake->drained_count++;
	shared_changed();
	shared_unlock();
}

static void prepared(void *arg, int result, const char *reason)
{
	struct intake *intake = arg;

	(void)reason;
	shared_lock();
	intake->prepared_count++;
	intake->prepared = result;
	shared_changed();
	shared_unlock();
}

static void ended(void *arg, int result, const char *reason)
{
	struct intake *intake = arg;

	(void)reason;
	shared_lock();
	intake->ended = result < 0 ? result : -EIO;
	shared_changed();
	shared_unlock();
}

static const struct mqfs_sink sink = {
    .delivered = delivered, .lost = lost, .drained = drained, .prepared = prepared, .ended = ended};

static void undo(void *arg)
{
	struct intake *intake = arg;

	intake_stop(intake);
	for (size_t i = 0; i < intake->count; i++) {
		if (intake->at && intake->deliveries[i]->state != MQFS_DELIVERY_SETTLED)
			settle_at(intake->at, intake->deliveries[i], MQFS_VERB_RELEASE);
		mqfs_delivery_unref(intake->deliveries[i]);
	}
	free(intake);
}

struct intake *intake_new(struct mqfs_backend *at, const char *queue, int prefetch)
{
	struct intake *intake = calloc(1, sizeof(*intake));

	assert_non_null(intake);
	intake->at = at;
	intake->queue = queue;
	intake->consuming = true;
	mqfs_consume(at, queue, prefetch, &sink, intake);
	defer(undo, intake);
	return intake;
}

void intake_stop(struct intake *intake)
{
	struct call *call;

	if (!intake->consuming)
		return;
	intake->consuming = false;
	call = call_new();
	mqfs_cancel(intake->at, intake->queue, call_done, call);
	assert_int_equal(call_wait(call), 0);
}

void intake_forget(struct intake *intake)
{
	intake->at = NULL;
	intake->consuming = false;
}

bool intake_has(struct intake *intake, size_t count)
{
	return WAIT_UNTIL(intake->count >= count, ENOUGH_MS);
}

bool intake_stays(struct intake *intake, size_t count)
{
	return !WAIT_UNTIL(intake->count != count, 500);
}

struct mqfs_delivery *intake_next(struct intake *intake)
{
	if (!WAIT_UNTIL(intake->count > intake->taken, ENOUGH_MS))
		fail_msg("nothing more was delivered");
	return intake->deliveries[intake->taken++];
}
