"""E-RADIO: a convolutional hybrid, two convolutional levels and two of attention in windows, then a neck.

Source: Ranzinger et al., "AM-RADIO" (2023), section 3.5 and appendix.
"""
