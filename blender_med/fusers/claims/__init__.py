"""What a sentence of a medical answer claims: its words, quantities, drugs and polarity."""
