/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <stdlib.h>
#include <string.h>

/*
 * Rule C9, for what was on its way. A broker does not answer an acknowledgement: that one was sent says nothing when
 * the broker was stopped, cut off or killed just then, and so the message comes again. Therefore the latest
 * acknowledgements are remembered by name, and when the connection is lost, these outcomes are written down as those
 * of detached claims are. Most will never be asked for, and age out.
 *
 * A broker that has stopped to read has at most prefetch deliveries unacknowledged; one that is killed may forget more,
 * which it had not brought to its disk.
 */

/* Copies a name into one piece of memory, for told->id and told->copy. */
static bool copy_name(struct told *told, const struct mqfs_copy_name *name)
{
	size_t id_bytes = strlen(name->message_id) + 1, copy_bytes = name->copy ? strlen(name->copy) + 1 : 0;

	told->id = malloc(id_bytes + copy_bytes);
	if (!told->id)
		return false;
	memcpy(told->id, name->message_id, id_bytes);
	told->copy = name->copy ? memcpy(told->id + id_bytes, name->copy, copy_bytes) : NULL;
	return true;
}

static void told_clear(struct told *told)
{
	free(told->id);
	*told = (struct told){0};
}

void consumer_told(struct held *held)
{
	struct mqfs_consumer *consumer = held->consumer;
	struct mqfs_copy_name name = mqfs_copy_name(held->delivery);
	struct told *told;

	if (!consumer->records || !consumer->backend->ops->acks_blind || !consumer_recognisable(held))
		return;
	if (!consumer->told)
		consumer->told = calloc(CONSUMER_TOLD, sizeof(*consumer->told));
	if (!consumer->told)
		return;
	told = &consumer->told[consumer->told_next++ % CONSUMER_TOLD];
	told_clear(told);
	if (!copy_name(told, &name))
		return;
	told->generation = held->delivery->generation;
	told->at_ms = mqfs_clock_monotonic_ms();
}

void consumer_told_lost(struct mqfs_consumer *consumer, uint64_t generation)
{
	int64_t oldest_ms = mqfs_clock_monotonic_ms() - CONSUMER_TOLD_MS;

	for (size_t i = 0; consumer->told && i < CONSUMER_TOLD; i++) {
		struct told *told = &consumer->told[i];
		struct mqfs_copy_name name = {consumer->queue, told->id, told->copy};

		if (!told->id || told->generation > generation)
			continue;
		if (told->at_ms >= oldest_ms)
			mqfs_records_decide(consumer->records, &name, MQFS_OUTCOME_ACK, NULL, NULL, NULL);
		told_clear(told);
	}
}

void consumer_told_free(struct mqfs_consumer *consumer)
{
	for (size_t i = 0; consumer->told && i < CONSUMER_TOLD; i++)
		free(consumer->told[i].id);
	free(consumer->told);
}
