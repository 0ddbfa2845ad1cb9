/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_ARGUMENTS_H
#define MQFS_AMQP_ARGUMENTS_H

#include <stdint.h>

#include <amqp.h>
#include <mqfs/name.h>
#include <mqfs/settings.h>

/*
 * What queues are declared with. Pure. version is the broker's, 31008 for 3.10.8.
 */
#define ARGUMENTS_MAX 12

struct arguments {
	amqp_table_entry_t entries[ARGUMENTS_MAX];
	amqp_table_t table; /* points to entries */
	mqfs_name_t dead;   /* the routing key of dead letters, or of what comes home */
};

void arguments_work_queue(struct arguments *arguments, const char *queue, const struct mqfs_settings *settings,
                          int version);
void arguments_dead_queue(struct arguments *arguments, int version);
/* The message waits level_ms, then goes home to queue through the default exchange. */
void arguments_delay_queue(struct arguments *arguments, const char *queue, int64_t level_ms, int version);

#endif
