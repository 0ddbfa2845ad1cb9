/* SPDX-License-Identifier: MIT */
#include <mqfs/delivery.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TO(state) (1u << MQFS_DELIVERY_##state)

/* The picture in delivery.h, as a table: where each state may go. */
static const struct {
	const char *name;
	unsigned may;
} states[MQFS_DELIVERY_STATES] = {
    [MQFS_DELIVERY_PENDING] = {"pending", TO(CLAIMED) | TO(SETTLING) | TO(LOST)},
    [MQFS_DELIVERY_CLAIMED] = {"claimed", TO(SETTLING) | TO(LOST)},
    [MQFS_DELIVERY_SETTLING] = {"settling", TO(CLAIMED) | TO(SETTLED) | TO(LOST)},
    [MQFS_DELIVERY_SETTLED] = {"settled", 0},
    [MQFS_DELIVERY_LOST] = {"lost", 0},
    [MQFS_DELIVERY_ARRIVING] = {"arriving", TO(PENDING) | TO(SETTLING) | TO(LOST)},
};

bool mqfs_delivery_may(enum mqfs_delivery_state from, enum mqfs_delivery_state to)
{
	assert(from < MQFS_DELIVERY_STATES && to < MQFS_DELIVERY_STATES);
	return states[from].may & (1u << to);
}

const char *mqfs_delivery_state_name(enum mqfs_delivery_state state)
{
	assert(state < MQFS_DELIVERY_STATES);
	return states[state].name;
}

struct mqfs_delivery *mqfs_delivery_new(struct mqfs_message *message, const char *queue)
{
	struct mqfs_delivery *delivery = calloc(1, sizeof(*delivery));

	if (!delivery)
		return NULL;
	delivery->queue = strdup(queue);
	if (!delivery->queue) {
		free(delivery);
		return NULL;
	}
	atomic_init(&delivery->references, 1);
	delivery->message = message;
	delivery->delivery_count = -1;
	return delivery;
}

struct mqfs_delivery *mqfs_delivery_ref(struct mqfs_delivery *delivery)
{
	atomic_fetch_add_explicit(&delivery->references, 1, memory_order_relaxed);
	return delivery;
}

static void delivery_free(struct mqfs_delivery *delivery)
{
	if (delivery->owner_free)
		delivery->owner_free(delivery->owner);
	mqfs_message_free(delivery->message);
	free(delivery->queue);
	free(delivery->exchange);
	free(delivery->routing_key);
	free(delivery->error);
	free(delivery);
}

struct mqfs_delivery *mqfs_delivery_unref(struct mqfs_delivery *delivery)
{
	if (delivery && atomic_fetch_sub_explicit(&delivery->references, 1, memory_order_acq_rel) == 1)
		delivery_free(delivery);
	return NULL;
}
