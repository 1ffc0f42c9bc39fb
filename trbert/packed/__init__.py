"""The packed row: the tokens of many documents one after the other, without padding."""
